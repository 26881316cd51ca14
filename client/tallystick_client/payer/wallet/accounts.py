"""The payer's calls to an aggregator: each signed (EIP-712 under the escrow's domain), each safe to repeat.

What comes back is a server's word. It is checked for its form here; whether it is believed is decided where it is used,
and no answer ever lets the wallet sign more than its own book allows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import grpc.aio

from tallystick import channels, eip712, spend_keys
from tallystick.amounts import decode_amount, encode_amount
from tallystick.channels import ChannelConfig
from tallystick.codec.account import read_permit2_approval, write_totals
from tallystick.codec.common import check_refusal, read_channel_totals, write_config
from tallystick.eip712 import Domain
from tallystick.errors import Described, MalformedError
from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick.signatures import Signer
from tallystick.spend_keys import SpendKey
from tallystick.tokens import Permit2Approval
from tallystick.v1 import account_pb2 as pb
from tallystick.v1 import account_pb2_grpc
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.grants import Clock
from tallystick_client.payer.wallet.rows import Deposit
from tallystick_client.rpc import CHAIN_TIMEOUT_S, CallRejectedError, call, open_channel

CALL_VALID_S: Final = 120
"""How long a signed call may be used; the aggregator takes at most 300 s."""
NONCES_MAX: Final = 16
"""Nonces that one call may ask for."""
_PAGES_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account as the aggregator tells it; amounts in atomic units, `spent` by spend key."""

    funds: int
    channels: tuple[ChannelTotals, ...]
    spent: dict[bytes, int]
    withdrawing: int
    """What a withdrawal takes that has begun on the chain."""
    payment_id_retention_s: int
    """After how many seconds a payment id is refused for its age; 0 where the aggregator does not tell."""


class KeyState(NamedTuple):
    """A spend key as the aggregator tells it; amounts in atomic units, `expires_at` in seconds since the epoch."""

    cap: int
    spent: int
    expires_at: int
    revoked: bool


class Balance(NamedTuple):
    """What a payer holds of a token outside of the escrow, in atomic units.

    `unused`: of the nonces that were asked for, those that no transfer has used; told as of `at`, in seconds since the
    epoch. None where the aggregator does not tell. `permit2`: None too where it was not asked for.
    """

    amount: int
    unused: frozenset[bytes] | None = None
    at: int = 0
    permit2: Permit2Approval | None = None


class Refunded(NamedTuple):
    """What came back to the payer, in atomic units, and the transaction that brought it."""

    amount: int
    transaction: bytes


class AccountClient:
    """The payer's side of one operator's AccountService. Connects when it is first used."""

    def __init__(self, operator: Operator, signer: Signer, clock: Clock = time.time) -> None:
        self.operator = operator
        self._signer = signer
        self._domain = operator.domain
        self._clock = clock
        self._channel: grpc.aio.Channel | None = None
        self._stub: account_pb2_grpc.AccountServiceAsyncStub | None = None

    async def read(self, account_id: bytes, domain: Domain | None = None) -> AccountState | None:
        """The account with all its channels, None where the aggregator does not know it.

        `domain`: of the contract that holds it, where that is not the operator's escrow.
        """
        authorization = self._may_read(account_id, domain)
        found: list[ChannelTotals] = []
        for _ in range(_PAGES_MAX):
            after = found[-1].channel_id if found else b""
            request = pb.GetAccountRequest(account_id=account_id, authorization=authorization, after_channel_id=after)
            response = await self._get_account(request)
            if response is None:
                return None
            found += (read_channel_totals(totals, "channels") for totals in response.channels)
            if not response.more:
                return _account_state(response, found)
        raise MalformedError("channels", Described(f"more than {_PAGES_MAX} pages"), f"at most {_PAGES_MAX}")

    async def deposit(self, account: ChannelConfig, deposit: Deposit) -> None:
        """Land a deposit; returns when it is credited."""
        request = pb.DepositRequest(
            network=str(self.operator.network),
            account=write_config(account),
            amount=encode_amount(deposit.amount),
            valid_after=deposit.valid_after,
            valid_before=deposit.valid_before,
            salt=deposit.salt,
            signature=deposit.signature,
            escrow=self.operator.escrow,
        )
        check_refusal(await call(self._service().Deposit, request, timeout_s=CHAIN_TIMEOUT_S))

    async def spend_key(self, account_id: bytes, key_id: bytes) -> KeyState | None:
        """One spend key of an account, None where the aggregator does not know it."""
        request = pb.GetAccountRequest(account_id=account_id, authorization=self._may_read(account_id))
        response = await self._get_account(request)
        for key in response.spend_keys if response is not None else ():
            if key.key_id == key_id:
                cap, spent = decode_amount(key.cap, "spend_keys.cap"), decode_amount(key.spent, "spend_keys.spent")
                return KeyState(cap, spent, key.expires_at, key.revoked)
        return None

    async def balance(
        self, account: ChannelConfig, nonces: Sequence[bytes] = (), *, permit2: bool = False
    ) -> Balance | None:
        """What the account's payer holds of its token outside of the escrow; the account need not be known yet.

        `nonces`: of the payer's transfers, at most NONCES_MAX. `permit2`: whether to ask what Permit2 may move. None
        where the aggregator is of a version that does not tell. Raises RefusedError, with a reason to retry where it
        cannot reach the chain or has too much to do.
        """
        request = pb.GetBalanceRequest(
            network=str(self.operator.network),
            account=write_config(account),
            authorization=self._may_read(channels.account_id(self._domain, account)),
            nonces=nonces,
            escrow=self.operator.escrow,
            permit2=permit2,
        )
        try:
            response = await call(self._service().GetBalance, request)
        except CallRejectedError as error:
            if error.status is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise
        check_refusal(response)
        amount = decode_amount(response.balance, "balance")
        has_approval = permit2 and response.HasField("permit2")
        approval = read_permit2_approval(response.permit2, "permit2") if has_approval else None
        if not nonces or len(response.nonces_used) != len(nonces):
            return Balance(amount, permit2=approval)
        used = zip(nonces, response.nonces_used, strict=True)
        unused = frozenset(nonce for nonce, is_used in used if not is_used)
        return Balance(amount, unused, response.nonces_at, approval)

    async def register_spend_key(self, account_id: bytes, key: SpendKey, cap: int, expires_at: int) -> None:
        """Register a key that may spend up to `cap` atomic units until `expires_at` (seconds)."""
        key_hash = spend_keys.key_hash(key.secret)
        authorization = self._authorize(
            lambda deadline: eip712.hash_register_spend_key(account_id, key.key_id, key_hash, cap, expires_at, deadline)
        )
        request = pb.RegisterSpendKeyRequest(
            account_id=account_id,
            key_id=key.key_id,
            secret=key.secret,
            cap=encode_amount(cap),
            expires_at=expires_at,
            authorization=authorization,
        )
        check_refusal(await call(self._service().RegisterSpendKey, request))

    async def revoke_spend_key(self, account_id: bytes, key_id: bytes) -> None:
        """Make a key worthless, at once and for good. A key that the aggregator never got is worthless already."""
        authorization = self._authorize(lambda deadline: eip712.hash_revoke_spend_key(account_id, key_id, deadline))
        request = pb.RevokeSpendKeyRequest(account_id=account_id, key_id=key_id, authorization=authorization)
        response = await call(self._service().RevokeSpendKey, request)
        if Reason.from_wire(response.refusal.reason) not in {Reason.SPEND_KEY_UNKNOWN, Reason.ACCOUNT_UNKNOWN}:
            check_refusal(response)

    async def refund(self, account_id: bytes, refund_id: bytes, amount: int) -> Refunded:
        """Bring back `amount`, or all that is available for 0; returns when it is on chain."""
        authorization = self._authorize(
            lambda deadline: eip712.hash_request_refund(account_id, refund_id, amount, deadline)
        )
        request = pb.RequestRefundRequest(
            account_id=account_id, refund_id=refund_id, amount=encode_amount(amount), authorization=authorization
        )
        response = await call(self._service().RequestRefund, request, timeout_s=CHAIN_TIMEOUT_S)
        check_refusal(response)
        return Refunded(decode_amount(response.amount, "amount"), response.transaction)

    async def totals_to_approve(self, account_id: bytes) -> list[tuple[bytes, int]]:
        """The (receiver, total) pairs that the next claim would carry."""
        request = pb.GetTotalsToApproveRequest(account_id=account_id, authorization=self._may_read(account_id))
        response = await call(self._service().GetTotalsToApprove, request)
        check_refusal(response)
        # Whoever is no seller of ours is refused by the book, whatever its form.
        return [(total.receiver, decode_amount(total.total, "totals.total")) for total in response.totals]

    async def approve(self, account_id: bytes, totals: Sequence[tuple[bytes, int]]) -> None:
        """Sign these totals and hand the signature in. The caller has compared them with its book."""
        digest = eip712.digest(self._domain, eip712.hash_totals_approval(account_id, totals))
        request = pb.ApproveTotalsRequest(
            account_id=account_id,
            totals=write_totals(totals),
            signature=self._signer.sign(digest),
        )
        check_refusal(await call(self._service().ApproveTotals, request))

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = self._stub = None

    async def _get_account(self, request: pb.GetAccountRequest) -> pb.GetAccountResponse | None:
        """The answer; None where the aggregator does not know the account."""
        response = await call(self._service().GetAccount, request)
        if Reason.from_wire(response.refusal.reason) is Reason.ACCOUNT_UNKNOWN:
            return None
        check_refusal(response)
        return response

    def _may_read(self, account_id: bytes, domain: Domain | None = None) -> pb.CallAuthorization:
        return self._authorize(lambda deadline: eip712.hash_read_account(account_id, deadline), domain)

    def _authorize(self, hash_call: Callable[[int], bytes], domain: Domain | None = None) -> pb.CallAuthorization:
        deadline = int(self._clock()) + CALL_VALID_S
        signature = self._signer.sign(eip712.digest(domain or self._domain, hash_call(deadline)))
        return pb.CallAuthorization(deadline=deadline, signature=signature)

    def _service(self) -> "account_pb2_grpc.AccountServiceAsyncStub":
        if self._stub is None:
            operator = self.operator
            self._channel = open_channel(
                operator.aggregator,
                insecure=operator.insecure,
                root_certificates=operator.root_certificates(),
            )
            self._stub = account_pb2_grpc.AccountServiceStub(self._channel)
        return self._stub


def _account_state(response: pb.GetAccountResponse, channels: list[ChannelTotals]) -> AccountState:
    return AccountState(
        funds=decode_amount(response.account.funds, "account.funds"),
        channels=tuple(channels),
        spent={key.key_id: decode_amount(key.spent, "spend_keys.spent") for key in response.spend_keys},
        withdrawing=decode_amount(response.account.withdrawing, "account.withdrawing"),
        payment_id_retention_s=response.payment_id_retention_s,
    )
