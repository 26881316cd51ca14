"""The bazaar extension: what a resource is, for those who list it (x402, specs/extensions/bazaar.md).

What describes a service is dropped field by field where it breaks a rule, with a note, and never stands in the way of a
payment. `info` is checked against the tables of the specification. A JSON Schema that came with it is not run: it may
be anybody's, and could cost any time.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tallystick.x402.messages import as_object

BAZAAR: Final = "bazaar"
_WORD_CHARS_MAX: Final = 32
_TAGS_MAX: Final = 5
_ICON_CHARS_MAX: Final = 2_048
_LOOPBACK: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_NUMBERS: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*")
"""What some resolvers take for an IPv4 address."""
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_TEMPLATE: Final = re.compile(r"/[a-zA-Z0-9_/:.\-~%]+")
_STAR: Final = re.compile(r"(?<=/)\*(?=/|$)")
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_BODY_METHODS: Final = ("POST", "PUT", "PATCH")
_QUERY_METHODS: Final = ("GET", "HEAD", "DELETE")


# What describes a service.


def service_metadata(resource: Mapping[str, Any], field: str = "resource") -> tuple[dict[str, Any], list[str]]:
    """The fields of `resource` that describe its service and keep the rules, and a note for each that was dropped."""
    kept: dict[str, Any] = {}
    notes: list[str] = []
    if (name := resource.get("serviceName")) is not None:
        if _is_word(name):
            kept["serviceName"] = name
        else:
            notes.append(f"{field}.serviceName: dropped, allowed 1 to {_WORD_CHARS_MAX} printable ASCII characters")
    if (tags := resource.get("tags")) is not None:
        good = _tags(tags)
        if good:
            kept["tags"] = good
        if good != tags:
            allowed = f"at most {_TAGS_MAX} different ones, each of 1 to {_WORD_CHARS_MAX} printable ASCII characters"
            notes.append(f"{field}.tags: dropped what is not allowed, which is {allowed}")
    if (icon := resource.get("iconUrl")) is not None:
        if is_icon_url(icon):
            kept["iconUrl"] = icon
        else:
            notes.append(f"{field}.iconUrl: dropped, allowed an http or https URL of a host that has a name")
    return kept, notes


def is_icon_url(value: object) -> bool:
    """Whether this may be an icon's URL: of a host with a name, not this machine's own, in whatever spelling."""
    if not isinstance(value, str) or not 0 < len(value) <= _ICON_CHARS_MAX or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme not in {"http", "https"} or any(character in value for character in " \\") or "@" in parts.netloc:
        return False
    host = _looked_up(parts.hostname or "")
    if not _HOST.fullmatch(host) or host in _LOOPBACK or _NUMBERS.fullmatch(host):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _WORD_CHARS_MAX and value.isascii() and value.isprintable()


def _tags(tags: object) -> list[str]:
    if not isinstance(tags, list):
        return []
    good: dict[str, str] = {}
    for tag in cast("list[object]", tags):
        if isinstance(tag, str) and _is_word(tag):
            good.setdefault(tag.lower(), tag)
    return list(good.values())[:_TAGS_MAX]


def _looked_up(host: str) -> str:
    """A host as it would be looked up: percent-decoded, and in ASCII; empty where it is none."""
    try:
        return unquote(host, errors="strict").encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        return ""


# How a resource is called.


class QueryInput(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An HTTP endpoint without a body."""

    type: Literal["http"]
    method: Literal["GET", "HEAD", "DELETE"]
    query_params: dict[str, Any] | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    path_params: dict[str, str] | UnsetType = UNSET


class BodyInput(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An HTTP endpoint with a body."""

    type: Literal["http"]
    method: Literal["POST", "PUT", "PATCH"]
    body_type: Literal["json", "form-data", "text"]
    body: dict[str, Any] | str
    query_params: dict[str, Any] | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    path_params: dict[str, str] | UnsetType = UNSET


class McpInput(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A tool over MCP."""

    type: Literal["mcp"]
    tool_name: str
    input_schema: dict[str, Any]
    description: str | UnsetType = UNSET
    transport: Literal["streamable-http", "sse"] | UnsetType = UNSET
    example: dict[str, Any] | UnsetType = UNSET


class Output(Struct, frozen=True, forbid_unknown_fields=True):
    """What comes back."""

    type: str
    format: str | UnsetType = UNSET
    example: Any = UNSET


def checked_info(info: object) -> dict[str, Any]:
    """`info` of the extension, as the specification's tables have it. Raises msgspec.ValidationError."""
    told = as_object(info)
    called = as_object(told.get("input"))
    kind: type[Struct] = QueryInput
    if called.get("type") == "mcp":
        kind = McpInput
    elif "bodyType" in called:
        kind = BodyInput
    checked: dict[str, Any] = {"input": msgspec.to_builtins(msgspec.convert(called, kind))}
    if "output" in told:
        checked["output"] = msgspec.to_builtins(msgspec.convert(told["output"], Output))
    return checked


def is_route_template(value: object) -> bool:
    """Whether this may name a route, such as /users/:userId."""
    if not isinstance(value, str) or not _TEMPLATE.fullmatch(value):
        return False
    plain = unquote(value)
    return ".." not in plain and "://" not in plain


def route_template(pattern: str) -> str:
    """The template of a path's pattern: stars that are whole segments become parameters. Empty where it has none."""
    numbers = iter(range(1, pattern.count("*") + 1))
    template = _STAR.sub(lambda _: f":part{next(numbers)}", pattern)
    return template if template != pattern and is_route_template(template) else ""


def bazaar_extension(method: str, pattern: str, mime_type: str | None = None) -> dict[str, Any]:
    """The `extensions` of a 402 that say how its resource is called; none for methods that the extension lacks.

    `pattern`: the path of the rule, whose stars become the route's parameters.
    """
    called: dict[str, Any] = {"type": "http", "method": method}
    if method in _BODY_METHODS:
        called |= {"bodyType": "text", "body": ""}
    elif method not in _QUERY_METHODS:
        return {}
    info: dict[str, Any] = {"input": called}
    if mime_type is not None:
        info["output"] = {"type": mime_type}
    template = route_template(pattern)
    extension = {"info": info, "schema": _schema(called)}
    return {BAZAAR: {**extension, "routeTemplate": template} if template else extension}


def _schema(called: Mapping[str, Any]) -> dict[str, Any]:
    methods: Sequence[str] = _BODY_METHODS if "body" in called else _QUERY_METHODS
    return {
        "$schema": _DIALECT,
        "type": "object",
        "properties": {
            "input": {
                "type": "object",
                "properties": {"type": {"const": "http"}, "method": {"enum": list(methods)}},
                "required": list(called),
            }
        },
        "required": ["input"],
    }
