"""The few shapes of which all that is stored is made: fixed bytes, whole numbers, blobs, texts.

Writing is a function per shape that returns bytes; reading is a `Reader` that refuses whatever writing cannot have
made, so that a damaged store is found out instead of being believed.
"""

from typing import Final

from tallystick_aggregator.store.port import StoreDamagedError

AMOUNT_BYTES: Final = 16
_WHOLE_BYTES_MAX: Final = 32
_BLOB_BYTES_MAX: Final = 2**32 - 1


class UnstorableError(ValueError):
    """A value that has no stored form: a bug of whoever made it. Names no value, which may be a secret."""


def fixed(value: bytes, length: int) -> bytes:
    """Bytes whose length goes without saying."""
    if len(value) != length:
        raise UnstorableError(f"a field of {length} bytes has {len(value)}")
    return value


def whole(value: int) -> bytes:
    """A number 0 <= x < 2**256: its length in bytes, then the bytes, big-endian."""
    if value < 0:
        raise UnstorableError("a number is negative")
    length = (value.bit_length() + 7) // 8
    if length > _WHOLE_BYTES_MAX:
        raise UnstorableError(f"a number has {value.bit_length()} bits")
    return bytes((length,)) + value.to_bytes(length, "big")


def blob(value: bytes) -> bytes:
    """Bytes of any length: four bytes of length, then the bytes."""
    if len(value) > _BLOB_BYTES_MAX:
        raise UnstorableError(f"a field has {len(value)} bytes")
    return len(value).to_bytes(4, "big") + value


def text(value: str) -> bytes:
    """Text, as a blob of UTF-8."""
    return blob(value.encode())


def flag(value: bool) -> bytes:
    """One byte, 0 or 1."""
    return b"\x01" if value else b"\x00"


class Reader:
    """Reads what the functions above wrote, strictly; raises StoreDamagedError, which names `what` is read."""

    __slots__ = ("_data", "_end", "_what", "position")

    def __init__(self, data: bytes, what: str, position: int = 0) -> None:
        self._data = data
        self._end = len(data)
        self._what = what
        self.position = position

    def fixed(self, length: int) -> bytes:
        start = self.position
        self.position = start + length
        if self.position > self._end:
            raise self.damaged(f"ends after {self._end} bytes, in the middle of a field")
        return self._data[start : self.position]

    def byte(self) -> int:
        """Read one byte as a number."""
        return self.fixed(1)[0]

    def amount(self) -> int:
        """Read a number of 16 bytes."""
        return int.from_bytes(self.fixed(AMOUNT_BYTES), "big")

    def whole(self) -> int:
        length = self.byte()
        digits = self.fixed(length)
        if length > _WHOLE_BYTES_MAX or digits[:1] == b"\x00":
            raise self.damaged("holds a number that is not in its shortest form")
        return int.from_bytes(digits, "big")

    def wholes(self, count: int) -> list[int]:
        """Read so many `whole`s in a row: a start reads millions."""
        data, position = self._data, self.position
        numbers: list[int] = []
        try:
            for _ in range(count):
                length = data[position]
                end = position + 1 + length
                if (length and data[position + 1] == 0) or length > _WHOLE_BYTES_MAX:
                    raise self.damaged("holds a number that is not in its shortest form")
                numbers.append(int.from_bytes(data[position + 1 : end], "big"))
                position = end
        except IndexError:
            position = self._end + 1
        self.position = position
        if position > self._end:
            raise self.damaged(f"ends after {self._end} bytes, in the middle of a field")
        return numbers

    def blob(self) -> bytes:
        return self.fixed(int.from_bytes(self.fixed(4), "big"))

    def text(self) -> str:
        try:
            return self.blob().decode()
        except UnicodeDecodeError as error:
            raise self.damaged("holds text that is not UTF-8") from error

    def flag(self) -> bool:
        value = self.byte()
        if value > 1:
            raise self.damaged(f"holds {value} where 0 or 1 is allowed")
        return value == 1

    def done(self) -> None:
        """Make sure that nothing is left."""
        if self.position != self._end:
            raise self.damaged(f"has {self._end - self.position} bytes too many")

    def damaged(self, problem: str) -> StoreDamagedError:
        """Return the error to raise: `what` is read, and its problem."""
        return StoreDamagedError(f"{self._what} {problem}")
