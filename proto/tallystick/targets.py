"""Where an aggregator or a wallet is reached, and what that says of who can reach it.

HOST:PORT      a name, an IPv4 address, or an IPv6 address in brackets
unix:PATH      a socket of this machine
"""

import ipaddress

from tallystick.errors import MalformedError


def check_target(target: str, field: str) -> None:
    """Raises MalformedError unless this is `host:port`, `[ipv6]:port` or `unix:path`."""
    host, _, port = target.rpartition(":")
    if target.startswith("unix:") and len(target) > len("unix:"):
        return
    is_host = bool(host) and not any(character == "/" or character.isspace() for character in host)
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if not (is_host and is_port):
        raise MalformedError(field, target, 'a host and a port, as in "aggregator.example:7402"')


def is_loopback(target: str) -> bool:
    """Whether a target can be reached from this machine only."""
    if target.startswith("unix:") or _host(target) == "localhost":
        return True
    address = _address(target)
    return address is not None and address.is_loopback


def is_wildcard(target: str) -> bool:
    """Whether a target stands for every address of this machine: a server listens there, and nobody can call it."""
    address = _address(target)
    return address is not None and address.is_unspecified


def _host(target: str) -> str:
    return target.rpartition(":")[0].strip("[]")


def _address(target: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(_host(target))
    except ValueError:
        return None
