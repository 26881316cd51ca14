"""`batch-settlement` over a chain in memory: seller NEWS, whose vouchers the facilitator manages, and who pays it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from batch_twin import BATCH_DOMAIN, BATCH_OPERATOR, DELAY_S_MIN, BatchTwin
from doubles import MUSIC, NETWORK, NEWS, NOW_MS, TOKEN

from tallystick.channels import ChannelConfig, channel_id
from tallystick.eip712 import BATCH_SETTLEMENT_ADDRESS, BATCH_SETTLEMENT_NAME, BATCH_SETTLEMENT_VERSION
from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.payment_ids import new_payment_id
from tallystick.quantities import PaymentId
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick.vouchers import UncheckedVoucher, sign_voucher
from tallystick.x402 import Network, PaymentPayload, PaymentRequirements, PaymentTerms
from tallystick.x402.batch_settlement import (
    BatchSettlementPayload,
    Reservation,
    VoucherPayload,
    batch_settlement_payload,
)
from tallystick.x402.terms import (
    SCHEME_BATCH_SETTLEMENT,
    VOUCHER_MANAGER_FACILITATOR,
    BatchSettlementTerms,
)
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.offers import EscrowOffer
from tallystick_aggregator.auth.credentials import Principal, Principals, Scope
from tallystick_aggregator.charging import LedgerWriter, PaymentBatcher, Steps
from tallystick_aggregator.charging.maintenance import Maintenance
from tallystick_aggregator.charging.signatures import SignatureThreads
from tallystick_aggregator.facilitator import Facilitator
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.invariants import check_invariants
from tallystick_aggregator.ledger.state import Account, Channel, Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.batch_settlement import BatchSettlementPayments
from tallystick_aggregator.schemes.port import PAYLOAD, Caller, EncodedPayment
from tallystick_aggregator.store.memory import MemoryDisk, MemoryJournal, MemoryOutbox

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
    return PaymentPayload(payload=batch_settlement_payload(payload), accepted=requirements(accepted))


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
    disk: MemoryDisk | None = None, rules: Rules | None = None, chain: BatchTwin | None = None
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

    scheme = BatchSettlementPayments(chains, OFFERS, Channels(chains, OFFERS, writer, rules), steps, writer, new_id)
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
