"""The compact calldata encoding of a claim batch, as `Escrow.claim` and `Escrow.claimWithSignature` read it.

A batch claims for one operator in one token. Integers are big-endian; nothing is padded. The contract's reader,
contracts/src/libraries/ClaimReader.sol, carries the same description.

    header
      0   20  operator
     20   20  token
     40    2  number of receivers, R
     42  20R  receivers, each paid once
     ..    2  number of accounts, A
     ..       A accounts, one after the other, up to the last byte of the batch

    account
      0   20  payer
     20   20  payerAuthorizer
     40    5  withdrawDelay, seconds
     45   32  salt
     77    1  authorization: 0 each row by its voucher, 1 all rows by one approval
     78    2  number of rows, N
     80   64  only by approval: signature of `TotalsApproval` over all rows in their order, compact (r, vs)
     ..       N rows

    row by voucher (98 bytes)                     row by approval (18 bytes)
      0    2  index into the receivers              0    2  index into the receivers
      2   16  total to claim up to                  2   16  total to claim up to
     18   16  the voucher's ceiling
     34   64  the voucher's signature, (r, vs)

Compact signatures are ERC-2098's: `vs` is `s` with the parity of `v` in its highest bit.

`encode` writes the one canonical form: receivers in the order of their first row, each once, none unused. `decode`
takes that form only, so a batch has exactly one encoding and `encode(decode(data)) == data`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

AMOUNT_MAX: Final = 2**128 - 1
WITHDRAW_DELAY_MAX_S: Final = 2**40 - 1
COUNT_MAX: Final = 2**16 - 1

HEADER_BYTES: Final = 42
RECEIVER_BYTES: Final = 20
COUNT_BYTES: Final = 2
ACCOUNT_BYTES: Final = 80
APPROVAL_BYTES: Final = 64
VOUCHER_ROW_BYTES: Final = 98
APPROVAL_ROW_BYTES: Final = 18

_BY_VOUCHERS: Final = 0
_BY_APPROVAL: Final = 1
_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class ClaimBatchError(ValueError):
    """A batch that cannot be encoded, or bytes that are no batch. The message names the field and what is allowed."""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One channel's claim.

    `total_claimed` is the cumulative total to claim up to; `max_claimable_amount` is the voucher's ceiling, equal to
    the total when the row is by approval. `signature` is the voucher's (65 bytes, r, s, v), None by approval.
    """

    receiver: bytes
    total_claimed: int
    max_claimable_amount: int
    signature: bytes | None


@dataclass(frozen=True, slots=True)
class AccountClaim:
    """The claims on one account, by each row's voucher or by one `approval` (65 bytes, r, s, v) of all rows."""

    payer: bytes
    payer_authorizer: bytes
    withdraw_delay_s: int
    salt: bytes
    rows: tuple[ClaimRow, ...]
    approval: bytes | None = None


@dataclass(frozen=True, slots=True)
class ClaimBatch:
    """What one transaction claims: one operator, one token, any number of accounts."""

    operator: bytes
    token: bytes
    accounts: tuple[AccountClaim, ...]


def encoded_size(batch: ClaimBatch) -> int:
    """The length of `encode(batch)` in bytes, without encoding it."""
    receivers = len({row.receiver for account in batch.accounts for row in account.rows})
    return HEADER_BYTES + RECEIVER_BYTES * receivers + COUNT_BYTES + sum(_account_size(a) for a in batch.accounts)


def encode(batch: ClaimBatch) -> bytes:
    """The batch as calldata of `claim(bytes)`. Raises ClaimBatchError."""
    rows = (row for account in batch.accounts for row in account.rows)
    index = {receiver: i for i, receiver in enumerate(dict.fromkeys(row.receiver for row in rows))}
    parts = [
        _sized("operator", batch.operator, 20),
        _sized("token", batch.token, 20),
        _integer("number of receivers", len(index), COUNT_MAX, COUNT_BYTES),
        *(_sized("receiver", receiver, 20) for receiver in index),
        _integer("number of accounts", len(batch.accounts), COUNT_MAX, COUNT_BYTES),
    ]
    for account in batch.accounts:
        parts.extend(_account_parts(account, index))
    return b"".join(parts)


def decode(data: bytes) -> ClaimBatch:
    """The batch that `data` is the encoding of. Raises ClaimBatchError for anything that `encode` would not write."""
    reader = _Reader(data)
    operator = reader.take("operator", 20)
    token = reader.take("token", 20)
    receivers = [reader.take("receiver", 20) for _ in range(reader.count("number of receivers"))]
    used: dict[int, None] = {}
    accounts = tuple(_read_account(reader, receivers, used) for _ in range(reader.count("number of accounts")))
    reader.expect_end()
    if len(set(receivers)) != len(receivers):
        raise ClaimBatchError("receivers: one is listed twice; each is listed once")
    if list(used) != list(range(len(receivers))):
        raise ClaimBatchError("receivers: not in the order of their first rows, or one has no row")
    return ClaimBatch(operator, token, accounts)


def _account_size(account: AccountClaim) -> int:
    if account.approval is None:
        return ACCOUNT_BYTES + VOUCHER_ROW_BYTES * len(account.rows)
    return ACCOUNT_BYTES + APPROVAL_BYTES + APPROVAL_ROW_BYTES * len(account.rows)


def _account_parts(account: AccountClaim, index: dict[bytes, int]) -> Iterable[bytes]:
    yield _sized("payer", account.payer, 20)
    yield _sized("payer_authorizer", account.payer_authorizer, 20)
    yield _integer("withdraw_delay_s", account.withdraw_delay_s, WITHDRAW_DELAY_MAX_S, 5)
    yield _sized("salt", account.salt, 32)
    yield bytes([_BY_VOUCHERS if account.approval is None else _BY_APPROVAL])
    yield _integer("number of rows", len(account.rows), COUNT_MAX, COUNT_BYTES)
    if account.approval is not None:
        yield _compact("approval", account.approval)
    for row in account.rows:
        yield _integer("receiver index", index[row.receiver], COUNT_MAX, COUNT_BYTES)
        yield _integer("total_claimed", row.total_claimed, AMOUNT_MAX, 16)
        if account.approval is None:
            yield _integer("max_claimable_amount", row.max_claimable_amount, AMOUNT_MAX, 16)
            yield _compact("signature", row.signature)
        else:
            _check_row_by_approval(row)


def _check_row_by_approval(row: ClaimRow) -> None:
    if row.signature is not None:
        raise ClaimBatchError("signature: a row of an approved account carries none; set it to None")
    if row.max_claimable_amount != row.total_claimed:
        raise ClaimBatchError(
            f"max_claimable_amount: got {row.max_claimable_amount}; "
            f"by approval it equals total_claimed, {row.total_claimed}"
        )


def _read_account(reader: "_Reader", receivers: list[bytes], used: dict[int, None]) -> AccountClaim:
    payer = reader.take("payer", 20)
    payer_authorizer = reader.take("payer_authorizer", 20)
    withdraw_delay_s = reader.integer("withdraw_delay_s", 5)
    salt = reader.take("salt", 32)
    authorization = reader.integer("authorization", 1)
    if authorization not in {_BY_VOUCHERS, _BY_APPROVAL}:
        raise ClaimBatchError(f"authorization: got {authorization}; 0 (vouchers) or 1 (approval) is allowed")
    row_count = reader.count("number of rows")
    approval = reader.signature("approval") if authorization == _BY_APPROVAL else None
    rows = tuple(_read_row(reader, receivers, used, by_voucher=approval is None) for _ in range(row_count))
    return AccountClaim(payer, payer_authorizer, withdraw_delay_s, salt, rows, approval)


def _read_row(reader: "_Reader", receivers: list[bytes], used: dict[int, None], *, by_voucher: bool) -> ClaimRow:
    index = reader.count("receiver index")
    if index >= len(receivers):
        raise ClaimBatchError(f"receiver index: got {index}; the batch lists {len(receivers)} receivers")
    used.setdefault(index)
    total = reader.integer("total_claimed", 16)
    if not by_voucher:
        return ClaimRow(receivers[index], total, total, None)
    ceiling = reader.integer("max_claimable_amount", 16)
    return ClaimRow(receivers[index], total, ceiling, reader.signature("signature"))


class _Reader:
    """Takes fields off the front of the bytes, naming the field that is missing if they end too early."""

    __slots__ = ("_data", "_position")

    def __init__(self: Self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self: Self, field: str, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise ClaimBatchError(
                f"{field}: {size} bytes expected at {self._position}, but the batch ends at {len(self._data)}"
            )
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def integer(self: Self, field: str, size: int) -> int:
        return int.from_bytes(self.take(field, size), "big")

    def count(self: Self, field: str) -> int:
        return self.integer(field, COUNT_BYTES)

    def signature(self: Self, field: str) -> bytes:
        r = self.take(field, 32)
        vs = self.integer(field, 32)
        s = vs & (2**255 - 1)
        if s > _HALF_ORDER:
            raise ClaimBatchError(f"{field}: s is above half of the curve's order; the chain refuses that")
        return r + s.to_bytes(32, "big") + bytes([27 + (vs >> 255)])

    def expect_end(self: Self) -> None:
        if self._position != len(self._data):
            raise ClaimBatchError(
                f"batch: {len(self._data)} bytes, but its content ends at {self._position}; nothing may follow"
            )


def _sized(field: str, value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise ClaimBatchError(f"{field}: got {len(value)} bytes; {size} are allowed")
    return value


def _integer(field: str, value: int, maximum: int, size: int) -> bytes:
    if not 0 <= value <= maximum:
        raise ClaimBatchError(f"{field}: got {value}; 0 to {maximum} is allowed")
    return value.to_bytes(size, "big")


def _compact(field: str, signature: bytes | None) -> bytes:
    """A 65-byte signature (r, s, v) in the 64 bytes of ERC-2098."""
    if signature is None:
        raise ClaimBatchError(f"{field}: got None; a row by voucher needs the voucher's signature (65 bytes)")
    _sized(field, signature, 65)
    s = int.from_bytes(signature[32:64], "big")
    v = signature[64]
    if v not in {27, 28}:
        raise ClaimBatchError(f"{field}: got v = {v}; 27 or 28 is allowed")
    if s > _HALF_ORDER:
        raise ClaimBatchError(f"{field}: s is above half of the curve's order; the chain refuses that")
    return signature[:32] + (s | (v - 27) << 255).to_bytes(32, "big")
