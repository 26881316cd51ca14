"""What can be bought: the resources that sellers published under their tokens (x402 specification v2, §8).

A seller pushes all that it sells at an origin in one message, which replaces the one before. Listed is only what is of
an origin that the operator bound to the seller (`auth.credentials`), and is paid to a receiver of its token; so nobody
lists another's page, and none of its own with somebody else's address. What breaks a rule is dropped with a note, the
rest is listed. All of it is bounded, and on disk before the seller hears of it. An origin that is bound no longer, or a
seller that is revoked, is listed no longer from then on.

Nothing is taken over from payments: `resource` and `extensions` of a payment are its payer's words.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, cast

import msgspec
from msgspec import Meta

from tallystick.errors import Described, MalformedError
from tallystick.hexadecimal import checksum
from tallystick.origins import origin_of
from tallystick.x402 import PaymentRequirements, read_terms
from tallystick.x402.bazaar import BAZAAR, bazaar_extension, checked_info, is_route_template, service_metadata
from tallystick.x402.messages import as_object
from tallystick_aggregator.auth.credentials import Principal
from tallystick_aggregator.store.port import Listings

VERSION: Final = 2
NOTES_MAX: Final = 32
"""Of one push; of more, only how many there are is told."""
OFFERS_MAX: Final = 16
"""Of one resource."""
CONTAINERS_MAX: Final = 128
"""Arrays and objects in one resource: bounds how deep they nest."""
QUESTIONS_MAX: Final = 256
"""Different filters whose results are kept until the list changes."""
_TEXT_CHARS_MAX: Final = 1_024
_KINDS: Final = ("http", "mcp")
_MIB: Final = 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListingLimits:
    """Settings of `[discovery]`."""

    items_per_seller_max: Annotated[int, Meta(ge=1, le=10_000)] = 200
    item_bytes_max: Annotated[int, Meta(ge=256, le=65_536)] = 8_192
    """Of one resource, as JSON."""
    bytes_max: Annotated[int, Meta(ge=1_024, le=256 * _MIB)] = 8 * _MIB
    """Of all resources of all sellers."""


class Published(NamedTuple):
    """How many resources of a push are listed, and what was dropped of it and why."""

    listed: int
    dropped: tuple[str, ...]


class Filter(NamedTuple):
    """Which resources are asked for; empty: all. `pay_to` is an address of 20 bytes."""

    kind: str = ""
    pay_to: bytes = b""
    scheme: str = ""
    network: str = ""
    extension: str = ""


class ResourcePage(NamedTuple):
    """Some of the resources, each as the specification's JSON object, and how many there are."""

    items: Sequence[Mapping[str, Any]]
    total: int


class _Manifest(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw]
    origins: list[str] = []
    """Those whose items are replaced; where none is named, those of the items, and without items all."""


class _Item(NamedTuple):
    """A resource as it is listed, with what it is found by."""

    origin: str
    told: dict[str, Any]

    def fits(self, wanted: Filter) -> bool:
        told = self.told
        if wanted.kind not in {"", told["type"]} or (wanted.extension and wanted.extension not in told["extensions"]):
            return False
        if not (wanted.pay_to or wanted.scheme or wanted.network):
            return True
        pay_to = checksum(wanted.pay_to) if wanted.pay_to else ""
        return any(
            pay_to in {"", offer["payTo"]}
            and wanted.scheme in {"", offer["scheme"]}
            and wanted.network in {"", offer["network"]}
            for offer in told["accepts"]
        )


class Listing:
    """The resources of all sellers, in memory and in the store. One event loop only."""

    def __init__(
        self,
        store: Listings,
        origins: Callable[[str], frozenset[str]],
        limits: ListingLimits | None = None,
        *,
        clock: Callable[[], float],
    ) -> None:
        """`origins` says what is bound to a seller's name; `clock` tells the time in seconds since the epoch."""
        self._store = store
        self._origins = origins
        self._limits = limits or ListingLimits()
        self._clock = clock
        self._items: dict[str, list[_Item]] = {}
        self._bytes: dict[str, int] = {}
        self._writing = asyncio.Lock()
        self._bound: list[tuple[str, frozenset[str]]] = []
        """What was bound to whom when these were made:"""
        self._visible: list[_Item] = []
        self._by_receiver: dict[str, list[_Item]] = {}
        self._words: frozenset[str] = frozenset()
        self._found: dict[Filter, list[_Item]] = {}

    async def load(self) -> None:
        """Read what the store has; a text that cannot be read is left out, and told in the log."""
        for seller, body in (await self._store.all()).items():
            try:
                self._put(seller, msgspec.json.decode(body, type=list[dict[str, Any]]), len(body))
            except (msgspec.DecodeError, KeyError) as error:
                log.warning("the resources of %s cannot be read, and are not listed: %s", seller, error)

    async def publish(self, principal: Principal, manifest: bytes) -> Published:
        """List these resources of a seller instead of those that it published before of the same origins: JSON with
        `items`, and with `origins` where it has none of one of them any more. Without either nothing stays listed.

        Raises MalformedError, and StoreUnavailableError with nothing changed.
        """
        notes: list[str] = []
        items: dict[tuple[str, ...], dict[str, Any]] = {}
        told = _read(manifest)
        raws = told.items
        for at, raw in enumerate(raws[: self._limits.items_per_seller_max]):
            try:
                item = self._read_item(principal, raw, f"items[{at}]", notes)
            except MalformedError as error:
                notes.append(f"{error}: not listed")
            else:
                items[_key(item)] = item
        if len(raws) > self._limits.items_per_seller_max:
            notes.append(f"items: got {len(raws)}, allowed {self._limits.items_per_seller_max}: the rest is not listed")
        if len(notes) > NOTES_MAX:
            notes[NOTES_MAX:] = [f"and {len(notes) - NOTES_MAX} more"]
        origins = {origin_of(origin) for origin in told.origins} | {
            origin_of(item["resource"]) for item in items.values()
        }
        async with self._writing:
            await self._replace(principal.name, items, origins if told.origins or raws else None)
        return Published(len(items), tuple(notes))

    def page(self, wanted: Filter, limit: int, offset: int) -> ResourcePage:
        """Return at most `limit` of the resources that are asked for, after the first `offset`; those of a seller stay
        together, in its order.
        """
        found = self._find(wanted)
        return ResourcePage([item.told for item in found[offset : offset + limit]], len(found))

    def _find(self, wanted: Filter) -> list[_Item]:
        """All that fit. Anybody may ask, so the list is not walked through for each: only for a new question, of which
        there are few, and what is paid to one receiver is short.
        """
        bound = [(seller, self._origins(seller)) for seller in self._items]
        if bound != self._bound:
            self._look_up(bound)
        if wanted.pay_to:
            return [item for item in self._by_receiver.get(checksum(wanted.pay_to), ()) if item.fits(wanted)]
        words = wanted.kind, wanted.scheme, wanted.network, wanted.extension
        if not self._words.issuperset(word for word in words if word):
            return []
        found = self._found.get(wanted)
        if found is None:
            found = [item for item in self._visible if item.fits(wanted)]
            if len(self._found) < QUESTIONS_MAX:
                self._found[wanted] = found
        return found

    def _look_up(self, bound: list[tuple[str, frozenset[str]]]) -> None:
        self._bound = bound
        self._visible = [item for seller, origins in bound for item in self._items[seller] if item.origin in origins]
        self._found = {}
        self._by_receiver = {}
        offers = [offer for item in self._visible for offer in item.told["accepts"]]
        self._words = frozenset({BAZAAR, *_KINDS, *(offer[name] for offer in offers for name in ("scheme", "network"))})
        for item in self._visible:
            for receiver in {offer["payTo"] for offer in item.told["accepts"]}:
                self._by_receiver.setdefault(receiver, []).append(item)

    async def _replace(
        self, seller: str, pushed: Mapping[tuple[str, ...], dict[str, Any]], origins: set[str] | None
    ) -> None:
        """Replace a seller's items of these origins; None: of all."""
        known = self._items.get(seller, [])
        before = {_key(item.told): item.told for item in known}
        others_of_it = [item.told for item in known if origins is not None and item.origin not in origins]
        most = self._limits.items_per_seller_max
        if len(others_of_it) + len(pushed) > most:
            got = Described(f"{len(pushed)}, beside {len(others_of_it)} of other origins")
            raise MalformedError("items", got, f"{most} of one seller")
        items = {_key(item): item for item in others_of_it} | {key: dict(item) for key, item in pushed.items()}
        now = int(self._clock())
        for key in pushed:
            item = items[key]
            # What has not changed keeps its time, so that the same push again changes nothing and writes nothing.
            then = before.get(key, {}).get("lastUpdated", now)
            item["lastUpdated"] = then if before.get(key) == item | {"lastUpdated": then} else now
        if list(items.values()) == list(before.values()):
            return
        body = msgspec.json.encode(list(items.values())) if items else b""
        # What is of a seller without an origin is not listed, and takes up no room.
        others = sum(length for name, length in self._bytes.items() if name != seller and self._origins(name))
        if others + len(body) > self._limits.bytes_max:
            room = max(0, self._limits.bytes_max - others)
            raise MalformedError("items", Described(f"{len(body)} bytes"), f"{room} bytes: all sellers share one list")
        await self._store.put(seller, body)
        self._put(seller, list(items.values()), len(body))

    def _put(self, seller: str, items: Iterable[dict[str, Any]], length: int) -> None:
        self._items[seller] = [_Item(origin_of(item["resource"]), item) for item in items]
        self._bytes[seller] = length
        self._bound = []

    def _read_item(self, principal: Principal, raw: msgspec.Raw, field: str, notes: list[str]) -> dict[str, Any]:
        """A resource as it is listed. Raises MalformedError where it is not; notes what was dropped of it."""
        text = bytes(raw)
        if len(text) > self._limits.item_bytes_max:
            raise MalformedError(field, Described(f"{len(text)} bytes"), f"at most {self._limits.item_bytes_max}")
        if text.count(b"[") + text.count(b"{") > CONTAINERS_MAX:
            raise MalformedError(field, Described("more"), f"at most {CONTAINERS_MAX} arrays and objects")
        told = as_object(msgspec.json.decode(text))
        resource = told.get("resource")
        # The manifest's items have an object, the specification's discovered resources a URL with the rest beside it.
        about = told if isinstance(resource, str) else as_object(resource)
        url = resource if isinstance(resource, str) else about.get("url")
        if not isinstance(url, str) or origin_of(url) not in self._origins(principal.name):
            allowed = " or ".join(sorted(self._origins(principal.name))) or "none: no origin is bound to this token"
            raise MalformedError(f"{field}.resource", url, f"a URL of {allowed}")
        kind = told.get("type", _KINDS[0])
        if kind not in _KINDS:
            raise MalformedError(f"{field}.type", kind, " or ".join(_KINDS))
        service, dropped = service_metadata(about, f"{field}.resource")
        notes += dropped
        return {
            "resource": url,
            "type": kind,
            "x402Version": VERSION,
            "accepts": _offers(principal, told.get("accepts"), f"{field}.accepts"),
            "lastUpdated": 0,
            **{name: said for name in ("description", "mimeType") if (said := _short(about.get(name)))},
            **service,
            "extensions": _extensions(told, kind, field, notes),
        }


def _read(manifest: bytes) -> _Manifest:
    try:
        return msgspec.json.decode(manifest, type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("manifest", Described(str(error)), 'a JSON object with "items", a list') from None


def _offers(principal: Principal, accepts: object, field: str) -> list[Any]:
    """The offers, all of them to receivers of this token; none where the price is not fixed."""
    entries = cast("list[object]", accepts) if isinstance(accepts, list) else []
    if accepts is not None and not isinstance(accepts, list):
        raise MalformedError(field, accepts, "a list of payment requirements")
    if len(entries) > OFFERS_MAX:
        raise MalformedError(field, Described(f"{len(entries)} of them"), f"at most {OFFERS_MAX}")
    offers: list[Any] = []
    for at, entry in enumerate(entries):
        try:
            offer = msgspec.convert(entry, PaymentRequirements)
        except msgspec.ValidationError as error:
            raise MalformedError(f"{field}[{at}]", Described(str(error)), "x402's PaymentRequirements") from None
        pay_to = read_terms(offer, f"{field}[{at}]").pay_to
        if pay_to not in principal.receivers:
            raise MalformedError(f"{field}[{at}].payTo", checksum(pay_to), "a receiver of this token")
        offers.append(msgspec.to_builtins(offer) | {"payTo": checksum(pay_to)})
    return offers


def _extensions(told: Mapping[str, Any], kind: str, field: str, notes: list[str]) -> dict[str, Any]:
    """The bazaar extension that came, or the one that the manifest's `input` makes; others are dropped."""
    extensions = as_object(told.get("extensions"))
    notes += [f"{field}.extensions.{name[:32]!a}: dropped, allowed {BAZAAR}" for name in extensions if name != BAZAAR]
    called = as_object(told.get("input"))
    came = as_object(extensions.get(BAZAAR))
    if not came and isinstance(method := called.get("method"), str):
        pattern = called.get("routeTemplate")
        came = as_object(bazaar_extension(method, pattern if isinstance(pattern, str) else "").get(BAZAAR))
    if not came:
        return {}
    try:
        bazaar: dict[str, Any] = {"info": checked_info(came.get("info"))}
    except msgspec.ValidationError as error:
        notes.append(f"{field}.extensions.{BAZAAR}: dropped: {error}")
        return {}
    if bazaar["info"]["input"]["type"] != kind:
        notes.append(f"{field}.extensions.{BAZAAR}: dropped: it is of another type than the resource")
        return {}
    template = came.get("routeTemplate")
    if is_route_template(template):
        bazaar["routeTemplate"] = template
    elif template is not None:
        notes.append(f"{field}.extensions.{BAZAAR}.routeTemplate: dropped, allowed a path such as /users/:userId")
    return {BAZAAR: bazaar}


def _key(item: Mapping[str, Any]) -> tuple[str, ...]:
    """What a resource is known by: its URL, and its method or its tool, of which a URL may have several."""
    called = as_object(as_object(as_object(as_object(item["extensions"]).get(BAZAAR)).get("info")).get("input"))
    return item["resource"], item["type"], str(called.get("method", "")), str(called.get("toolName", ""))


def _short(text: object) -> str:
    return text if isinstance(text, str) and len(text) <= _TEXT_CHARS_MAX else ""
