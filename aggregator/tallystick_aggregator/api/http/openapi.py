"""The OpenAPI document, made from the very types that read and write the messages, and a page for people."""

from functools import cache
from typing import Any, Final

import msgspec

from tallystick.x402 import SettleResponse
from tallystick.x402.facilitator import SettleRequest, SupportedResponse, VerifyRequest, VerifyResponse
from tallystick_aggregator.api.http.requests import RequestV1
from tallystick_aggregator.api.http.responses import Problem

_TITLE: Final = "Tallystick, an x402 facilitator"
_ABOUT: Final = (
    "x402 version 2 over HTTP. A refused payment is an answer (200, `isValid` or `success` false) with a standard"
    " reason code; other statuses are errors. Sellers send their token as `Authorization: Bearer`."
)
_KINDS: Final = (VerifyRequest, SettleRequest, VerifyResponse, SettleResponse, SupportedResponse, RequestV1, Problem)
_FILTERS: Final = ("type", "scheme", "network", "extensions")
_ERRORS: Final = {
    400: "Malformed; `field` names what.",
    401: "No token that is known here.",
    403: "The token may not do this.",
    408: "The body arrived too slowly.",
    413: "The body is too long.",
    429: "Too many requests of this caller at once.",
    500: "An unexpected failure, logged under the number in `message`.",
    503: "Not now: too many requests, or the store cannot tell an outcome. The same request again is safe.",
}


@cache
def document() -> bytes:
    """The document as JSON."""
    _, components = msgspec.json.schema_components(_KINDS, ref_template="#/components/schemas/{name}")
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": _TITLE, "version": "2", "description": _ABOUT, "license": {"name": "MIT"}},
            "paths": {
                "/verify": {"post": _payment("Check a payment", VerifyRequest, VerifyResponse)},
                "/settle": {
                    "post": _payment(
                        "Take a payment; stays open up to `maxTimeoutSeconds`", SettleRequest, SettleResponse
                    )
                },
                "/supported": {"get": _supported()},
                "/discovery/resources": {"get": _discovery(), "put": _publish()},
                "/healthz": {"get": _health()},
            },
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def page() -> str:
    """A page for people who open the address in a browser."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{_TITLE}</title><h1>{_TITLE}</h1>"
        "<p>Servers that sell by <a href='https://x402.org'>x402</a> have payments checked and settled here:"
        " name this address as your facilitator.</p><ul>"
        "<li><code>POST /verify</code>, <code>POST /settle</code>"
        "<li><a href='supported'>GET /supported</a>: schemes, networks, signers"
        "<li><a href='discovery/resources'>GET /discovery/resources</a>: what can be bought;"
        " <code>PUT</code> with a seller's token lists what it sells"
        "<li><a href='healthz'>GET /healthz</a>"
        "<li><a href='openapi.json'>OpenAPI</a></ul></html>"
    )


def _payment(summary: str, request: type, response: type) -> dict[str, Any]:
    content = {"schema": {"anyOf": [_ref(request), _ref(RequestV1)]}}
    return {
        "summary": summary,
        "security": [{"token": []}, {}],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {"200": _json("The outcome.", _ref(response)), **_errors(*_ERRORS)},
    }


def _supported() -> dict[str, Any]:
    return {
        "summary": "What can be verified and settled now",
        "security": [{"token": []}, {}],
        "responses": {
            "200": _json("Kinds, extensions, signers.", _ref(SupportedResponse)),
            **_errors(401, 429, 500, 503),
        },
    }


def _discovery() -> dict[str, Any]:
    integer = {"type": "integer"}
    page = {
        "type": "object",
        "required": ["x402Version", "items", "pagination"],
        "properties": {
            "x402Version": {"const": 2},
            "items": {"type": "array", "items": {"type": "object"}},
            "pagination": {"type": "object", "properties": {"limit": integer, "offset": integer, "total": integer}},
        },
    }
    return {
        "summary": "What can be bought",
        "parameters": [
            *(_parameter(name, {"type": "string", "maxLength": 64}) for name in _FILTERS),
            _parameter("payTo", {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}),
            _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
            _parameter("offset", {"type": "integer", "minimum": 0, "maximum": 2**53 - 1, "default": 0}),
        ],
        "responses": {"200": _json("Some of them.", page), **_errors(400, 500)},
    }


def _publish() -> dict[str, Any]:
    manifest = {
        "type": "object",
        "required": ["items"],
        "properties": {"items": {"type": "array"}},
    }
    published = {
        "type": "object",
        "required": ["listed", "dropped"],
        "properties": {"listed": {"type": "integer"}, "dropped": {"type": "array", "items": {"type": "string"}}},
    }
    return {
        "summary": "List what a seller sells, instead of what it listed before",
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": manifest}}},
        "responses": {
            "200": _json("What is listed, and what was dropped and why.", published),
            **_errors(400, 401, 403, 408, 413, 429, 500, 503),
        },
    }


def _health() -> dict[str, Any]:
    told = {
        "type": "object",
        "required": ["status", "settling"],
        "properties": {"status": {"enum": ["serving", "not_serving"]}, "settling": {"type": "boolean"}},
    }
    return {
        "summary": "Whether payments are taken",
        "responses": {"200": _json("They are.", told), "503": _json("They are not now.", told)},
    }


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _json(_ERRORS[status], _ref(Problem)) for status in statuses}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(kind: type) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
