"""Signatures that the chain will take, and nothing else (invariant I5), at the speed of libsecp256k1.

Strict: 65 bytes r || s || v, v 27 or 28, 0 < r < n, 0 < s <= n/2, recovering to the signer. Common libraries accept
more (high s, v of 0, 1 or 35, 64 bytes); the chain does not, and a ceiling stored with such a signature could never be
claimed.

**Why v needs a recovery.** On chain ecrecover takes v from the signature, and a wrong v yields another address. A plain
ECDSA check (about 23 µs) says nothing about v: proving it needs the point R, which the library does not hand out, and
computing R in Python costs more than to recover the key (about 28 µs) and compare it. So:

- `verify_many`: by recovery. True means: the chain takes this signature. Whatever is stored as
  a ceiling, or sent to a chain, must have passed here. There is no repair of v later on, hence none to forget.
- `verify_authorship_many`: the plain check on the cached key. True means: the holder
  of the key signed this digest. Enough to authenticate a charge whose voucher is not kept, such as all but the highest
  of a burst on one channel.

libsecp256k1 runs without the GIL, so chunks given to threads scale with the cores.
"""

from collections.abc import Sequence
from typing import Any, Final, NoReturn, Self, cast

import coincurve
from coincurve import _libsecp256k1  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage, reportUnknownVariableType]
from coincurve.context import GLOBAL_CONTEXT

from tallystick.errors import Described, InvalidSignatureError, MalformedError
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick.quantities import Address

ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""n, the order of secp256k1."""
_HALF_ORDER: Final = (ORDER // 2).to_bytes(32, "big")
_ZERO: Final = bytes(32)

# The binding has no types. It is looked up once here: these are the calls of the hot path.
_ffi: Final[Any] = cast("Any", _libsecp256k1).ffi
_lib: Final[Any] = cast("Any", _libsecp256k1).lib
_context: Final[Any] = cast("Any", GLOBAL_CONTEXT).ctx
_parse: Final = _lib.secp256k1_ecdsa_signature_parse_compact
_verify: Final = _lib.secp256k1_ecdsa_verify
_parse_recoverable: Final = _lib.secp256k1_ecdsa_recoverable_signature_parse_compact
_recover: Final = _lib.secp256k1_ecdsa_recover
_compare: Final = _lib.secp256k1_ec_pubkey_cmp
_serialize: Final = _lib.secp256k1_ec_pubkey_serialize
_UNCOMPRESSED: Final = _lib.SECP256K1_EC_UNCOMPRESSED


class Signer:
    """A private key that signs. Its text form shows the address only, and it can be neither pickled nor copied."""

    __slots__ = ("_key", "address")

    address: Address

    def __init__(self, private_key: bytes) -> None:
        if len(private_key) != 32 or not 0 < int.from_bytes(private_key, "big") < ORDER:
            got = f"{len(private_key)} bytes" if len(private_key) != 32 else "32 bytes out of range"
            raise MalformedError("private key", Described(got), "32 bytes, above zero and below the order of secp256k1")
        self._key = cast("Any", coincurve.PrivateKey(private_key))
        self.address = _address(self._key.public_key.public_key)

    def sign(self, digest: bytes) -> bytes:
        """The 65-byte signature of a 32-byte digest: deterministic (RFC 6979), v 27 or 28, low s."""
        signature: bytes = self._key.sign_recoverable(digest, hasher=None)
        # An R whose x is not below n has a chance of 2**-127 and no place in v.
        assert signature[64] <= 1
        return signature[:64] + (b"\x1c" if signature[64] else b"\x1b")

    def __repr__(self) -> str:
        return f"Signer({checksum(self.address)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Signer holds a private key and is never serialised or copied")


class AuthorizerKey:
    """The parsed public key behind an address, kept so that later checks need not look for it.

    `point` is the binding's own object.
    """

    __slots__ = ("address", "point")

    address: Address

    def __init__(self, point: Any) -> None:
        """Wrap a parsed public key of the binding; callers use `recover`."""
        self.point = point
        self.address = _address(point)

    @classmethod
    def recover(cls, digest: bytes, signature: bytes) -> Self:
        """The key that made this signature, strictly (I5); raises InvalidSignatureError, which says what is wrong."""
        return cls(_recover_point(digest, signature))

    def __repr__(self) -> str:
        return f"AuthorizerKey({checksum(self.address)})"


def recover(digest: bytes, signature: bytes) -> Address:
    """The address whose 65-byte signature of the 32-byte digest this is, strictly (I5).

    Raises InvalidSignatureError.
    """
    return _address(_recover_point(digest, signature))


def verify_many(items: Sequence[tuple[AuthorizerKey, bytes, bytes]]) -> list[bool]:
    """For each (key, digest, signature), in order: whether the chain will take it (I5).

    Give chunks of 16 to 256 items to threads: the work runs without the GIL, one call per item would not pay.
    """
    parsed = _ffi.new("secp256k1_ecdsa_recoverable_signature *")
    point = _ffi.new("secp256k1_pubkey *")
    return [
        _has_form(digest, signature)
        and _parse_recoverable(_context, parsed, signature[:64], signature[64] - 27) == 1
        and _recover(_context, point, parsed, digest) == 1
        and _compare(_context, point, key.point) == 0
        for key, digest, signature in items
    ]


def verify_authorship_many(items: Sequence[tuple[AuthorizerKey, bytes, bytes]]) -> list[bool]:
    """For each (key, digest, signature), in order: whether the key signed the digest. v may be wrong."""
    parsed = _ffi.new("secp256k1_ecdsa_signature *")
    return [
        _has_form(digest, signature)
        and _parse(_context, parsed, signature[:64]) == 1
        and _verify(_context, parsed, digest, key.point) == 1
        for key, digest, signature in items
    ]


def _has_form(digest: bytes, signature: bytes) -> bool:
    # The lengths keep the library from reading past the end; low s and v are what the chain asks for.
    return len(digest) == 32 and len(signature) == 65 and 27 <= signature[64] <= 28 and signature[32:64] <= _HALF_ORDER


def _recover_point(digest: bytes, signature: bytes) -> Any:
    problem = _problem_of_form(digest, signature)
    if problem:
        raise InvalidSignatureError(problem)
    parsed = _ffi.new("secp256k1_ecdsa_recoverable_signature *")
    point = _ffi.new("secp256k1_pubkey *")
    if not _parse_recoverable(_context, parsed, signature[:64], signature[64] - 27):
        raise InvalidSignatureError("r is not below the order of the curve")
    if not _recover(_context, point, parsed, digest):
        raise InvalidSignatureError("it recovers to no key")
    return point


def _problem_of_form(digest: bytes, signature: bytes) -> str:
    if len(digest) != 32:
        return f"the digest has {len(digest)} bytes, allowed 32"
    if len(signature) != 65:
        return f"it has {len(signature)} bytes, allowed 65 (r, s, v)"
    if not 27 <= signature[64] <= 28:
        return f"v is {signature[64]}, allowed 27 or 28"
    if signature[:32] == _ZERO:
        return "r is zero"
    if signature[32:64] == _ZERO:
        return "s is zero"
    if signature[32:64] > _HALF_ORDER:
        return "s is above half of the order of the curve"
    return ""


def _address(point: Any) -> Address:
    """The address of a public key: the last 20 bytes of the hash of its 64 bytes x || y."""
    out = _ffi.new("unsigned char[65]")
    length = _ffi.new("size_t *", 65)
    _serialize(_context, out, length, point, _UNCOMPRESSED)
    return Address(keccak256(bytes(_ffi.buffer(out, 65))[1:])[12:])
