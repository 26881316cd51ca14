"""`batch-settlement` over a chain in memory: seller NEWS, whose vouchers the facilitator manages, and who pays it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

from batch_twin import BATCH_DOMAIN, BATCH_OPERATOR, CHAIN_ID, DELAY_S_MIN, BatchTwin
from chain_twin import TOKEN_DOMAIN
from doubles import MUSIC, NETWORK, NEWS, NOW_MS, NOW_S, TOKEN

from tallystick import eip712
from tallystick.channels import ChannelConfig, channel_id
from tallystick.eip712 import BATCH_SETTLEMENT_ADDRESS, BATCH_SETTLEMENT_NAME, BATCH_SETTLEMENT_VERSION
from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.payment_ids import new_payment_id
from tallystick.quantities import PaymentId
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.vouchers import UncheckedVoucher, sign_voucher
from tallystick.x402 import Network, PaymentPayload, PaymentRequirements, PaymentTerms, TokenPermit
from tallystick.x402.batch_settlement import (
    BatchSettlementPayload,
    DepositPayload,
    Erc3009Deposit,
    Permit2Deposit,
    RefundPayload,
    Reservation,
    VoucherPayload,
    batch_settlement_payload,
)
from tallystick.x402.permit2 import permit_extension
from tallystick.x402.terms import (
    SCHEME_BATCH_SETTLEMENT,
    VOUCHER_MANAGER_FACILITATOR,
    BatchSettlementTerms,
)
from tallystick_aggregator.accounts.accounts import Accounts
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.deposits import Deposits
from tallystick_aggregator.accounts.offers import EscrowOffer
from tallystick_aggregator.accounts.refunds import Refunds
from tallystick_aggregator.auth.credentials import Principal, Principals, Scope
from tallystick_aggregator.auth.limits import NO_LIMITS, GasBudget, GasLimits
from tallystick_aggregator.charging import LedgerWriter, PaymentBatcher, Steps
from tallystick_aggregator.charging.maintenance import Maintenance
from tallystick_aggregator.charging.signatures import SignatureThreads
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.state import Account, Channel, Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.batch_settlement import BatchSettlementPayments, Ports, RefundCalls
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment
from tallystick_aggregator.store.memory import MemoryDisk, MemoryJournal, MemoryOutbox

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})
PRICE: Final = 100
MIN_DEPOSIT: Final = 1_000
DELAY_S: Final = 86_400
REF: Final = EscrowRef(NETWORK, BATCH_SETTLEMENT_ADDRESS)
OFFER: Final = EscrowOffer(
    network=NETWORK,
    escrow=BATCH_SETTLEMENT_ADDRESS,
    escrow_name=BATCH_SETTLEMENT_NAME,
    escrow_version=BATCH_SETTLEMENT_VERSION,
    operator=BATCH_OPERATOR.address,
    tokens={TOKEN: Token(TOKEN, "USDC", 6, "USD Coin", "2", MIN_DEPOSIT)},
    withdraw_delay_s_min=DELAY_S_MIN,
    withdraw_delay_s_max=30 * 86_400,
    withdraw_delay_s=DELAY_S,
)
OFFERS: Final = {REF: OFFER}
ASKED: Final = BatchSettlementTerms(
    BATCH_OPERATOR.address, DELAY_S, "USD Coin", "2", voucher_manager=VOUCHER_MANAGER_FACILITATOR
)
"""What NEWS asks for."""
TERMS: Final = PaymentTerms(SCHEME_BATCH_SETTLEMENT, Network(31337), PRICE, TOKEN, NEWS, 60, ASKED.extra())
SELLER: Final = Principal("news", frozenset({NEWS}), frozenset({Scope.CHARGE}))


class BatchPayer:
    """Somebody with a key, and channels that it has named or opened."""

    def __init__(self, name: str, receiver: bytes = NEWS, **changes: Any) -> None:
        self.signer = Signer(sha256(b"batch payer " + name.encode()).digest())
        config = ChannelConfig(
            payer=self.signer.address,
            payer_authorizer=self.signer.address,
            receiver=receiver,
            receiver_authorizer=BATCH_OPERATOR.address,
            token=TOKEN,
            withdraw_delay_s=DELAY_S,
            salt=bytes(32),
        )
        self.config = replace(config, **changes)

    @property
    def channel_id(self) -> bytes:
        return channel_id(BATCH_DOMAIN, self.config)

    def voucher(self, ceiling: int, signer: Signer | None = None) -> UncheckedVoucher:
        """A voucher of the channel, of the payer's unless somebody else signs it."""
        signed = sign_voucher(signer or self.signer, BATCH_DOMAIN, self.channel_id, ceiling)
        return UncheckedVoucher(self.channel_id, ceiling, signed.signature)

    def pay(self, ceiling: int, **reservation: Any) -> VoucherPayload:
        """A voucher payload; `reservation` is what the server adds."""
        return VoucherPayload(self.config, self.voucher(ceiling), Reservation(**reservation))

    def refund(self, ceiling: int, amount: int | None = None, **changes: Any) -> RefundPayload:
        """A voucher that charges nothing, and what is asked back; `changes` are of the server."""
        pending, cancel = changes.pop("pending_id", None), changes.pop("cancel", False)
        payload = RefundPayload(self.config, self.voucher(ceiling), amount, reservation=Reservation(pending, cancel))
        return replace(payload, **changes)

    def deposit(
        self,
        amount: int,
        ceiling: int = PRICE,
        *,
        salt: bytes = bytes(32),
        window: tuple[int, int] = (0, NOW_S + 3_600),
        **reservation: Any,
    ) -> DepositPayload:
        """A deposit by ERC-3009 and a voucher."""
        deposit = Erc3009Deposit(*window, salt, b"")
        struct = deposit.struct_hash(self.config, self.channel_id, amount)
        signed = replace(deposit, signature=self.signer.sign(eip712.digest(TOKEN_DOMAIN, struct)))
        return DepositPayload(self.config, self.voucher(ceiling), amount, signed, Reservation(**reservation))

    def permit2(
        self,
        amount: int,
        ceiling: int = PRICE,
        *,
        permit_nonce: int | None = None,
        changes: Mapping[str, Any] = EMPTY,
        **reservation: Any,
    ) -> DepositPayload:
        """A deposit by Permit2 and a voucher; with a permit that approves Permit2 where its nonce is said."""
        deposit = Permit2Deposit(
            from_=self.signer.address,
            token=TOKEN,
            permitted=amount,
            spender=eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS,
            nonce=sha256(b"permit2 nonce").digest(),
            deadline=NOW_S + 3_600,
            channel_id=self.channel_id,
            signature=b"",
        )
        deposit = replace(deposit, **changes)
        digest = eip712.digest(eip712.permit2_domain(CHAIN_ID), deposit.struct_hash())
        permit = None if permit_nonce is None else self._permit(amount, permit_nonce)
        signed = replace(deposit, signature=self.signer.sign(digest), permit=permit)
        return DepositPayload(self.config, self.voucher(ceiling), amount, signed, Reservation(**reservation))

    def _permit(self, amount: int, nonce: int) -> TokenPermit:
        owner = self.signer.address
        permit = TokenPermit(owner, TOKEN, eip712.PERMIT2_ADDRESS, amount, nonce, NOW_S + 3_600, b"")
        return replace(permit, signature=self.signer.sign(eip712.digest(TOKEN_DOMAIN, permit.struct_hash())))


def requirements(terms: PaymentTerms = TERMS) -> PaymentRequirements:
    """The same as it stands in a 402."""
    return PaymentRequirements(
        scheme=terms.scheme,
        network=str(terms.network),
        amount=str(terms.amount),
        asset=checksum(terms.asset),
        pay_to=checksum(terms.pay_to),
        max_timeout_seconds=terms.max_timeout_s,
        extra=dict(terms.extra),
    )


def message_of(payload: BatchSettlementPayload, accepted: PaymentTerms = TERMS) -> PaymentPayload:
    """The payment as its payer writes it."""
    extensions: dict[str, Any] = {}
    if isinstance(payload, DepositPayload) and isinstance(payload.authorization, Permit2Deposit):
        permit = payload.authorization.permit
        extensions = permit_extension(permit) if permit else {}
    return PaymentPayload(
        payload=batch_settlement_payload(payload), accepted=requirements(accepted), extensions=extensions
    )


@dataclass
class Clock:
    """The time that the ledger goes by."""

    now_ms: int = NOW_MS

    @property
    def now_s(self) -> int:
        return self.now_ms // 1000


@dataclass
class BatchMarket:
    """The scheme and what it stands on."""

    disk: MemoryDisk
    clock: Clock
    rules: Rules
    writer: LedgerWriter
    outbox: MemoryOutbox
    chain: BatchTwin
    batcher: PaymentBatcher
    maintenance: Maintenance
    scheme: BatchSettlementPayments
    facilitator: Facilitator
    refunds: Refunds

    @property
    def ledger(self) -> Ledger:
        """As of the last commit."""
        return self.writer.ledger

    def channel(self, payer: BatchPayer) -> Channel:
        return self.ledger.channels[payer.channel_id]

    def account(self, payer: BatchPayer) -> Account:
        return self.ledger.accounts[payer.channel_id]

    async def verify(
        self, payload: BatchSettlementPayload, terms: PaymentTerms = TERMS, accepted: PaymentTerms | None = None
    ) -> Verified | Refusal:
        """What an edge is answered; the payer accepted the terms, unless it is said what else."""
        payment = EncodedPayment(PAYLOAD, message_of(payload, accepted or terms))
        return (await self.facilitator.verify(SELLER, terms, payment, Caller(SELLER.name))).answer

    async def settle(
        self,
        payload: BatchSettlementPayload,
        amount: int = PRICE,
        terms: PaymentTerms = TERMS,
        accepted: PaymentTerms | None = None,
        *,
        release: bool = False,
    ) -> Settled | Refusal:
        """The same; the payer accepted what `terms` say, and `amount` is what is charged."""
        payment = EncodedPayment(PAYLOAD, message_of(payload, accepted or terms))
        charged = replace(terms, amount=amount)
        return await self.facilitator.settle(SELLER, charged, payment, Caller(SELLER.name), release=release)

    async def expire(self) -> None:
        """Let as much time pass as a channel is held."""
        self.clock.now_ms += self.rules.reservation_s * 1000 + 1
        await self.maintenance.expire_reservations()


@asynccontextmanager
async def batch_market(
    disk: MemoryDisk | None = None,
    rules: Rules | None = None,
    chain: BatchTwin | None = None,
    gas: GasLimits = NO_LIMITS,
) -> AsyncIterator[BatchMarket]:
    """Open a market on this disk; `chain`: the one of a market that has ended, to be continued."""
    disk, rules, clock = disk or MemoryDisk(), rules or Rules(), Clock()
    journal, outbox = MemoryJournal(disk), MemoryOutbox(disk)
    writer = LedgerWriter(await journal.load(), journal, clock_ms=lambda: clock.now_ms)
    writing = asyncio.create_task(writer.serve())
    twin = BatchTwin(writer, outbox)
    if chain is not None:
        twin.continue_from(chain)
    chains = {REF: twin}
    signatures, separators = SignatureThreads(1), {REF: BATCH_DOMAIN.separator}
    batcher = PaymentBatcher(writer, separators, rules, signatures=signatures)
    steps = Steps(writer, separators, rules, signatures)
    await twin.gas.load(outbox, NETWORK)
    numbers = iter(range(2**32))

    def new_id() -> PaymentId:
        return new_payment_id(clock.now_ms, disk.epoch.to_bytes(2, "big") + next(numbers).to_bytes(8, "big"))

    channels = Channels(chains, OFFERS, writer, rules)
    payers = Accounts(chains, OFFERS, channels, writer, rules, lambda: clock.now_s)
    refunds = Refunds(
        chains,
        payers,
        writer,
        outbox,
        refund_timeout_s=0.2,
        budget=GasBudget(gas),
        call_of=RefundCalls(chains, writer),
    )

    def deposits(*, is_credited: bool) -> Deposits:
        return Deposits(
            chains,
            OFFERS,
            writer,
            outbox,
            lambda: clock.now_s,
            credit_timeout_s=0.2,
            budget=GasBudget(gas),
            is_credited=is_credited,
        )

    scheme = BatchSettlementPayments(
        Ports(
            chains=chains,
            offers=OFFERS,
            channels=channels,
            refunds=refunds,
            deposits=deposits(is_credited=True),
            server_deposits=deposits(is_credited=False),
            outbox=outbox,
            budget=GasBudget(gas),
            steps=steps,
            writer=writer,
            new_id=new_id,
            clock_s=lambda: clock.now_s,
            hold_s=rules.reservation_s,
        )
    )
    try:
        yield BatchMarket(
            disk,
            clock,
            rules,
            writer,
            outbox,
            twin,
            batcher,
            Maintenance(writer, journal, rules),
            scheme,
            Facilitator(Principals(lambda _: SELLER), [scheme]),
            refunds,
        )
        check_invariants(writer.ledger)
    finally:
        writer.stop()
        await writing
        batcher.close()


def refused(answer: object) -> Refusal:
    """The answer, which is a refusal."""
    assert isinstance(answer, Refusal), answer
    return answer


def verified(answer: object) -> Verified:
    """The answer, which is none."""
    assert isinstance(answer, Verified), answer
    return answer


def settled(answer: object) -> Settled:
    """The answer, which is none."""
    assert isinstance(answer, Settled), answer
    return answer


def pending_id(answer: object) -> str:
    """What /verify held the channel under."""
    return str(verified(answer).extra["pendingId"])


__all__ = ["MUSIC"]
