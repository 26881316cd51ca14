"""P1: what a rule covers is not served unpaid, however its path is written and whatever prefix is in front.

The application behind the paywall takes paths as one framework or another does. `resolve` says which page that is; the
page must not be one that a rule speaks of.
"""

import asyncio
import posixpath
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import fastapi
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from seller_fakes import FakeAggregator
from seller_shop import Message, Unmoved, supported_by
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tallystick_client import Paywall, Rule

SELLER = "0x" + "5e" * 20
MANY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Resolve = Callable[[Message], str]


def paywall(app: Any, patterns: Sequence[str]) -> Paywall:
    rules = [Rule(path=pattern, price="0.001 USDC") for pattern in patterns]
    return Paywall(app, aggregator=Unmoved(supported_by(FakeAggregator())), pay_to=SELLER, rules=rules)


def ask(app: Any, scope: Message) -> int:
    """The status of the answer to an unpaid request."""
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    asyncio.run(app(scope, receive, send))
    return statuses[0]


def scope_of(target: str, *, root: str = "", in_front: str = "", has_raw_path: bool = True) -> Message:
    """A request as servers tell it: with `in_front` before the path, and decoded."""
    raw = in_front.encode() + target.encode()
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": in_front + unquote(target),
        "raw_path": raw if has_raw_path else None,
        "query_string": b"",
        "root_path": root,
        "headers": [],
        "server": ("shop.test", 80),
    }


# What applications do with a path, written apart from how the paywall reads it.


def without_root_at_a_slash(scope: Message) -> str:
    root, path = scope["root_path"], scope["path"]
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"/", ""}:
        return str(path[len(root) :])
    return str(path)


def without_root_as_text(scope: Message) -> str:
    return str(scope["path"]).removeprefix(scope["root_path"])


def without_root_anywhere(scope: Message) -> str:
    root, path = scope["root_path"], scope["path"]
    return str(path.split(root, 1)[-1] if root else path)


def with_root(scope: Message) -> str:
    return str(scope["path"])


def with_root_in_front(scope: Message) -> str:
    return str(scope["root_path"] + scope["path"])


PREFIXES = [
    without_root_at_a_slash,
    without_root_as_text,
    without_root_anywhere,
    with_root,
    with_root_in_front,
]


def merge_slashes(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part) + ("/" if path.endswith("/") else "")


def resolve_dots(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def no_parameters(path: str) -> str:
    return "/".join(part.partition(";")[0] for part in path.split("/"))


def dots_and_spaces_of_windows(path: str) -> str:
    return "/".join(part if part.strip(". ") == "" else part.rstrip(". ") for part in path.split("/"))


STEPS: list[Callable[[str], str]] = [
    unquote,
    merge_slashes,
    resolve_dots,
    no_parameters,
    dots_and_spaces_of_windows,
    lambda path: path.replace("\\", "/"),
    lambda path: path.partition("\0")[0],
    lambda path: path.replace("\0", "").replace("\t", ""),
    lambda path: path.partition("?")[0],
    lambda path: path.partition("#")[0],
    lambda path: unicodedata.normalize("NFKC", path),
    lambda path: path if path.startswith("/") else "/" + path,
]
TOKENS = [
    *("/", "/", "/", "a", "b", "a", "b", "api", "v1", "A", "."),
    *("..", "//", "%2F", "%2f", "%252F", "%25252f", "%2e", "%252e%252e", "%61", "%2561", ";x", "%3B", "%00", "%09"),
    *("\\", "%5C", "%3F", "%23", "%20", ".%20", "%C0%AF", "%C0%AE", "%EF%BC%8F", "%EF%BD%81", "a%CC%88"),
]
targets = st.lists(st.sampled_from(TOKENS), max_size=9).map(lambda tokens: "/" + "".join(tokens))
patterns = st.lists(
    st.builds(
        lambda first, parts: first + "".join(parts),
        st.sampled_from(["/a", "/a/", "/b/a", "/api/a", "/v1/a", "/api/v1/a/", "/ä", "*/a", "*a"]),
        st.lists(st.sampled_from(["/", "*", "a", "b", ".b"]), max_size=3),
    ),
    min_size=1,
    max_size=3,
)
roots = st.sampled_from(["", "/api", "/api/v1", "/v1"])


def covers(pattern: str, page: str, *, any_case: bool, any_end: bool) -> bool:
    regex = re.compile(
        ".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL | (re.IGNORECASE if any_case else 0)
    )
    if regex.fullmatch(page):
        return True
    if not any_end:
        return False
    return bool(regex.fullmatch(page.rstrip("/"))) or (pattern.endswith("/") and bool(regex.fullmatch(page + "/")))


@MANY
@given(
    target=targets,
    rules=patterns,
    root=roots,
    is_in_front=st.booleans(),
    has_raw_path=st.booleans(),
    prefix=st.sampled_from(PREFIXES),
    steps=st.lists(st.sampled_from(STEPS), max_size=3),
    any_case=st.booleans(),
    any_end=st.booleans(),
)
@example("/a", ["/a"], "/api", True, True, without_root_at_a_slash, [], False, False)
@example("/x/api/a", ["/a"], "/api", False, True, without_root_anywhere, [], False, False)
@example("/b%2F..%2Fa", ["/a"], "", False, True, with_root, [resolve_dots], False, False)
@example("/b/%252e%252e/a", ["/a"], "", False, False, with_root, [unquote, resolve_dots], False, False)
@example("/%5C%2561", ["/a"], "", False, True, with_root, [unquote, resolve_dots], False, False)
def test_p1_what_a_rule_covers_in_any_reading_is_never_served_unpaid(
    target: str,
    rules: list[str],
    root: str,
    is_in_front: bool,
    has_raw_path: bool,
    prefix: Resolve,
    steps: list[Callable[[str], str]],
    any_case: bool,
    any_end: bool,
) -> None:
    pages: list[str] = []

    async def app(scope: Message, _receive: Any, send: Any) -> None:
        path = prefix(scope)
        for step in steps:
            path = step(path)
        pages.append(path)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    in_front = root if is_in_front else ""
    status = ask(paywall(app, rules), scope_of(target, root=root, in_front=in_front, has_raw_path=has_raw_path))
    assert status in {200, 400, 402}
    for page in pages:
        assert not any(covers(pattern, page, any_case=any_case, any_end=any_end) for pattern in rules), page


@MANY
@given(target=targets, rules=patterns)
def test_p1_bytes_that_are_no_utf8_lead_around_no_rule(target: str, rules: list[str]) -> None:
    pages: list[str] = []

    async def app(scope: Message, _receive: Any, send: Any) -> None:
        raw = unquote_to_bytes(scope["raw_path"])
        # Overlong forms of "/" and ".", as lenient decoders take them.
        lenient = raw.replace(b"\xc0\xaf", b"/").replace(b"\xc0\xae", b".")
        pages.extend([resolve_dots(lenient.decode(errors="replace")), raw.decode("latin-1")])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    ask(paywall(app, rules), scope_of(target))
    for page in pages:
        assert not any(covers(pattern, page, any_case=False, any_end=False) for pattern in rules), page


plain = st.lists(st.sampled_from(["a", "b", "c-d", "x.html", "1"]), min_size=1, max_size=4).map("/".join)


@MANY
@given(path=plain.map("/".__add__), rules=patterns)
def test_p1_an_ordinary_page_that_no_rule_speaks_of_is_free(path: str, rules: list[str]) -> None:
    async def app(_scope: Message, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    is_paid = any(covers(pattern, path, any_case=True, any_end=True) for pattern in rules)
    assert ask(paywall(app, rules), scope_of(path)) == (402 if is_paid else 200)


# Real frameworks: mounts within mounts, the paywall on any level.


def nested(mounts: list[str], level: int, rules: list[str], served: list[tuple[str, str]]) -> Any:
    """Applications mounted in each other, the paywall around the one on this level. Notes which pages are served."""

    async def page(request: Request) -> PlainTextResponse:
        served.append((request.path_params["page"], request.scope["path"]))
        return PlainTextResponse("a page")

    app: Any = Starlette(routes=[Route("/{page:path}", page)])
    for at in range(len(mounts), -1, -1):
        if at == level:
            app = paywall(app, rules)
        if at:
            app = Starlette(routes=[Mount(mounts[at - 1], app)])
    return app


@MANY
@given(
    mounts=st.lists(st.sampled_from(["/v1", "/b", "/api"]), max_size=2),
    level=st.integers(0, 2),
    rules=patterns,
    root=roots,
    page=plain,
)
def test_p1_no_mount_and_no_root_path_leads_around_a_rule(
    mounts: list[str], level: int, rules: list[str], root: str, page: str
) -> None:
    served: list[tuple[str, str]] = []
    level = min(level, len(mounts))
    app = nested(mounts, level, rules, served)
    status = ask(app, scope_of("".join(mounts) + "/" + page, root=root, in_front=root))
    assert status in {200, 402}
    inner = "".join(mounts[level:])
    for name, path in served:
        # As the application within the paywall knows it, and as clients do.
        for reading in (f"{inner}/{name}", path):
            assert not any(covers(pattern, reading, any_case=False, any_end=False) for pattern in rules), reading


def fastapi_app(root_path: str = "") -> fastapi.FastAPI:
    app = fastapi.FastAPI(root_path=root_path)

    @app.get("/articles/{number}")
    async def article(number: str) -> str:
        return number

    @app.get("/free/{number}")
    async def free(number: str) -> str:
        return number

    return app


def with_middleware(app: fastapi.FastAPI, pattern: str) -> fastapi.FastAPI:
    app.add_middleware(
        Paywall,
        aggregator=Unmoved(supported_by(FakeAggregator())),
        pay_to=SELLER,
        rules=[Rule(path=pattern, price="0.001 USDC")],
    )
    return app


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
@pytest.mark.parametrize("pattern", ["/articles/*", "/api/articles/*"])
@pytest.mark.parametrize("place", ["in it", "around it", "around what mounts it"])
@pytest.mark.parametrize("front", ["", "/api"])
def test_p1_a_root_path_of_fastapi_hides_no_page(pattern: str, place: str, front: str) -> None:
    app: Any = fastapi_app("/api")
    if place == "in it":
        app = with_middleware(app, pattern)
    elif place == "around it":
        app = paywall(app, [pattern])
    else:
        app = paywall(Starlette(routes=[Mount("/", app)]), [pattern])
    assert ask(app, scope_of(f"{front}/articles/1")) == 402
    assert ask(app, scope_of(f"{front}/free/1")) == 200


@pytest.mark.parametrize("pattern", ["/articles/*", "/api/articles/*"])
def test_p1_a_root_path_of_the_server_hides_no_page(pattern: str) -> None:
    for app in (with_middleware(fastapi_app(), pattern), paywall(fastapi_app(), [pattern])):
        for in_front in ("/api", ""):
            assert ask(app, scope_of("/articles/1", root="/api", in_front=in_front)) == 402
            assert ask(app, scope_of("/free/1", root="/api", in_front=in_front)) == 200


@pytest.mark.parametrize("pattern", ["/articles/*", "/v1/articles/*", "/api/v1/articles/*"])
def test_p1_a_mount_hides_no_page(pattern: str) -> None:
    app = Starlette(routes=[Mount("/v1", paywall(fastapi_app(), [pattern]))])
    assert ask(app, scope_of("/v1/articles/1", root="/api", in_front="/api")) == 402
    assert ask(app, scope_of("/v1/free/1", root="/api", in_front="/api")) == 200
    if not pattern.startswith("/api"):
        assert ask(app, scope_of("/v1/articles/1")) == 402
