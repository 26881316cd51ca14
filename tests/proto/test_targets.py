import pytest

from tallystick.errors import MalformedError
from tallystick.targets import check_target, is_loopback, is_wildcard


@pytest.mark.parametrize("target", ["a.example:1", "127.0.0.1:65535", "[::1]:7402", "unix:/run/x.sock", "localhost:1"])
def test_a_target_has_a_host_and_a_port(target: str) -> None:
    check_target(target, "aggregator")


@pytest.mark.parametrize(
    "target", ["", "a.example", ":1", "a.example:", "a.example:0", "a.example:65536", "a:1x", "a:-1", "unix:",
               "https://a.example:1", "a:99999999999999999999", "bad host:1", "a:\u0661"],
)  # fmt: skip
def test_anything_else_is_no_target(target: str) -> None:
    with pytest.raises(MalformedError, match="aggregator"):
        check_target(target, "aggregator")


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("localhost.evil.example:1", False),
        ("127.0.0.1.evil.example:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_what_stays_on_this_machine_is_known(target: str, *, loopback: bool) -> None:
    assert is_loopback(target) is loopback


@pytest.mark.parametrize(
    ("target", "wildcard"),
    [
        ("0.0.0.0:7402", True),
        ("[::]:7402", True),
        ("127.0.0.1:7402", False),
        ("10.0.0.1:7402", False),
        ("a.example:7402", False),
        ("unix:/x", False),
    ],
)
def test_what_stands_for_every_address_is_nobodys(target: str, *, wildcard: bool) -> None:
    assert is_wildcard(target) is wildcard
