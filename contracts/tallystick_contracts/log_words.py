"""Reads the events of a contract from raw logs, word by word. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from tallystick.hashing import keccak256

WORD: Final = 32

E = TypeVar("E")


class LogError(ValueError):
    """A log that is none of the contract's, or that does not follow from those before it."""


class RawLog(Protocol):
    """What a node says of an event: its topics (32 bytes each, the first names the event) and its data."""

    @property
    def topics(self) -> Sequence[bytes]: ...

    @property
    def data(self) -> bytes: ...


class Kind(NamedTuple, Generic[E]):
    """How an event is read, and how many fields are indexed (in topics).

    `read` takes the indexed fields and then the data, 32 bytes each.
    """

    indexed: int
    read: Callable[[Sequence[bytes]], E]


def kinds_by_topic(signatures: Mapping[str, Kind[E]]) -> dict[bytes, tuple[str, Kind[E]]]:
    """The kinds by the first topic of their events, each with its signature."""
    return {keccak256(signature.encode()): (signature, kind) for signature, kind in signatures.items()}


def decode_log(log: RawLog, kinds: Mapping[bytes, tuple[str, Kind[E]]]) -> E:
    """The event of a raw log. Raises LogError if it is none of these kinds."""
    if not log.topics or log.topics[0] not in kinds:
        raise LogError(f"topic: got {log.topics[0].hex() if log.topics else 'none'}; no event of the contract has it")
    signature, kind = kinds[log.topics[0]]
    if len(log.topics) != 1 + kind.indexed or len(log.data) % WORD:
        raise LogError(f"{signature}: got {len(log.topics)} topics and {len(log.data)} bytes of data")
    words = [*log.topics[1:], *(log.data[at : at + WORD] for at in range(0, len(log.data), WORD))]
    try:
        return kind.read(words)
    except LogError:
        raise
    except (TypeError, ValueError) as error:
        raise LogError(f"{signature}: {len(words)} words that do not fit its fields") from error


def read_address(word: bytes) -> bytes:
    """The address in a word. Raises LogError if the word holds more."""
    if any(word[:12]):
        raise LogError(f"an address: got {word.hex()}; it has 20 bytes")
    return word[12:]


def read_uint(word: bytes) -> int:
    """The integer in a word."""
    return int.from_bytes(word, "big")
