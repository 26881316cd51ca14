"""The rules by which what describes a resource is dropped (extensions/bazaar.md), and origins in one spelling."""

from typing import Any

import msgspec
import pytest

from tallystick.errors import MalformedError
from tallystick.origins import origin_of, parse_origin
from tallystick.x402.bazaar import (
    bazaar_extension,
    checked_info,
    is_icon_url,
    is_route_template,
    route_template,
    service_metadata,
)


@pytest.mark.parametrize("name", ["", "x" * 33, "caf\u00e9", "a\nb", "\x7f", 7, ["a"], {}])
def test_a_services_name_is_printable_and_short(name: Any) -> None:
    kept, notes = service_metadata({"serviceName": name, "tags": ["good"]})
    assert (kept, [note.partition(":")[0] for note in notes]) == ({"tags": ["good"]}, ["resource.serviceName"])


def test_what_is_in_order_is_kept_without_a_note() -> None:
    about = {"serviceName": " ~" + "x" * 30, "tags": list("abcde"), "iconUrl": "https://cdn.example/i.png"}
    assert service_metadata({**about, "url": "u"}) == (about, [])
    assert service_metadata({}) == ({}, [])


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        (list("abcdef"), list("abcde")),
        (["", 7, None, "a" * 33, "b\n", "good"], ["good"]),
        (["News", "NEWS", "news", "b"], ["News", "b"]),
        ("news", None),
        ({"a": 1}, None),
        ([7], None),
    ],
)
def test_the_first_five_good_tags_are_kept(tags: Any, kept: Any) -> None:
    told, notes = service_metadata({"tags": tags})
    assert (told.get("tags"), len(notes)) == (kept, 1)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/icon.png",
        "data:image/png;base64,AAAA",
        "file:///etc/passwd",
        "ftp://cdn.example/i",
        "https://",
        "https://user@cdn.example/i",
        "https://user:pass@cdn.example/i",
        "https://127.0.0.1/i",
        "https://[::1]/i",
        "https://[::ffff:127.0.0.1]/i",
        "https://%31%32%37.0.0.1/i",
        "https://localhost/i",
        "https://LOCALHOST./i",
        "https://%6cocalhost/i",
        "https://localhost.localdomain/i",
        "https://ip6-loopback/i",
        "https://2130706433/i",
        "https://0x7f000001/i",
        "https://0x7f.1/i",
        "https://127.1/i",
        "https://\uff11\uff12\uff17.0.0.1/i",
        "https://cdn.example/\n",
        "https://cdn.example\\@evil/i",
        "https://cdn.example:99999/i",
        "https://cdn.example/" + "x" * 2_048,
        7,
        None,
    ],
)
def test_an_icon_is_of_a_named_host_of_somebody_else(url: Any) -> None:
    assert not is_icon_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://cdn.example/i.png", "http://cdn.example:8080/i", "https://b\u00fccher.example/i", "https://1.example/"],
)
def test_usual_icons_are_kept(url: str) -> None:
    assert is_icon_url(url)


@pytest.mark.parametrize(
    ("template", "is_one"),
    [
        ("/users/:userId", True),
        ("/weather/:country/:city", True),
        ("/a%20b/~c.d-e_f", True),
        ("", False),
        ("users/:id", False),
        ("https://evil.example/", False),
        ("/users/../admin", False),
        ("/users/%2e%2E/admin", False),
        ("/users/%3A%2F%2Fevil", False),
        ("/a b", False),
        ("/articles/*", False),
        ("/a\n", False),
        (7, False),
        (None, False),
    ],
)
def test_a_route_is_named_by_safe_characters(template: Any, is_one: bool) -> None:
    assert is_route_template(template) is is_one


def test_a_patterns_whole_segments_become_parameters() -> None:
    assert route_template("/articles/*") == "/articles/:part1"
    assert route_template("/*/pages/*") == "/:part1/pages/:part2"
    assert [route_template(one) for one in ("/a", "/a*", "*", "/b\u00fccher/*")] == [""] * 4


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT", "PATCH"])
def test_the_extension_of_a_402_passes_its_own_check(method: str) -> None:
    extension = bazaar_extension(method, "/articles/*", "text/html")["bazaar"]
    assert checked_info(extension["info"]) == extension["info"]
    assert extension["info"]["output"] == {"type": "text/html"}
    assert extension["routeTemplate"] == "/articles/:part1"
    assert extension["schema"]["properties"]["input"]["required"] == list(extension["info"]["input"])
    assert bazaar_extension("BREW", "/a") == {}


@pytest.mark.parametrize(
    "info",
    [
        None,
        {},
        {"input": {"type": "http"}},
        {"input": {"type": "http", "method": "POST"}},
        {"input": {"type": "http", "method": "GET", "odd": 1}},
        {"input": {"type": "mcp", "toolName": "t"}},
        {"input": {"type": "http", "method": "GET"}, "output": {}},
    ],
)
def test_info_of_another_form_is_none(info: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        checked_info(info)


def test_a_tool_is_described_too() -> None:
    info = {"input": {"type": "mcp", "toolName": "t", "inputSchema": {"type": "object"}}}
    assert checked_info({**info, "odd": 1}) == info


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://News.example/a?b#c", "https://news.example"),
        ("https://news.example:443", "https://news.example"),
        ("http://news.example:8080/", "http://news.example:8080"),
        ("http://[::1]:80/", "http://[::1]"),
        ("HTTPS://news.example/", "https://news.example"),
        ("https://user@news.example/", ""),
        ("https://news.example\\@evil/", ""),
        ("https://news.example:x/", ""),
        ("https://b\u00fccher.example/", ""),
        ("https:///a", ""),
        ("ftp://news.example/", ""),
        ("//news.example/", ""),
        ("https://[::1/", ""),
    ],
)
def test_an_origin_has_one_spelling(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_an_origin_has_no_path() -> None:
    assert parse_origin("https://News.example/", "--origin") == "https://news.example"
    for odd in ("https://news.example/a", "https://news.example?", "https://news.example#", "news.example", ""):
        with pytest.raises(MalformedError, match="--origin"):
            parse_origin(odd, "--origin")
