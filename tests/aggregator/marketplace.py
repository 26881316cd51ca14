"""All schemes over a chain in memory: one network, one token, sellers NEWS and MUSIC, and whoever comes to pay."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from chain_twin import TOKEN_DOMAIN, ChainTwin
from doubles import DOMAIN, ESCROW, ESCROW_REF, NETWORK, NEWS, NOW_MS, NOW_S, OPERATOR, TOKEN, Payer

from tallystick import eip712
from tallystick.eip712 import ESCROW_NAME, ESCROW_VERSION
from tallystick.tokens import Token
from tallystick.x402 import SCHEME_DEFERRED, SCHEME_EXACT, ExactAuthorization, Network, PaymentTerms
from tallystick_aggregator.accounts.accounts import Accounts
from tallystick_aggregator.accounts.channels import Channels
from tallystick_aggregator.accounts.deposits import Deposits
from tallystick_aggregator.accounts.offers import EscrowOffer
from tallystick_aggregator.accounts.refunds import Refunds
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.auth.limits import NO_LIMITS, GasBudget, GasLimits
from tallystick_aggregator.auth.transfer_limits import NO_LIMITS as NO_EXACT_LIMITS
from tallystick_aggregator.auth.transfer_limits import TransferLimits
from tallystick_aggregator.chain.port import DepositAuthorization
from tallystick_aggregator.charging import LedgerWriter, PaymentBatcher
from tallystick_aggregator.charging.signatures import SignatureThreads
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.state import Account, Channel, Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.schemes.deferred.payments import DeferredPayments
from tallystick_aggregator.schemes.exact import Claims, ExactPayments
from tallystick_aggregator.schemes.upto import UptoPayments
from tallystick_aggregator.store.memory import MemoryDisk, MemoryJournal, MemoryOutbox
from tallystick_aggregator.store.port import Outbox
from tallystick_aggregator.store.sqlite.store import SqliteStore

MIN_DEPOSIT: Final = 1_000
PRICE: Final = 100
OFFER: Final = EscrowOffer(
    network=NETWORK,
    escrow=ESCROW,
    escrow_name=ESCROW_NAME,
    escrow_version=ESCROW_VERSION,
    operator=OPERATOR,
    tokens={TOKEN: Token(TOKEN, "USDC", 6, "USD Coin", "2", MIN_DEPOSIT)},
    withdraw_delay_s_min=10_800,
    withdraw_delay_s_max=30 * 86_400,
    withdraw_delay_s=86_400,
)
OFFERS: Final = {ESCROW_REF: OFFER}
TERMS: Final = PaymentTerms(SCHEME_DEFERRED, Network(31337), PRICE, TOKEN, NEWS)
EXACT_TERMS: Final = replace(TERMS, scheme=SCHEME_EXACT)


@dataclass
class Marketplace:
    """The schemes and what they stand on."""

    disk: MemoryDisk
    writer: LedgerWriter
    outbox: Outbox
    chain: ChainTwin
    chains: Mapping[EscrowRef, ChainTwin]
    batcher: PaymentBatcher
    rules: Rules
    channels: Channels
    deferred: DeferredPayments
    exact: ExactPayments
    upto: UptoPayments
    accounts: Accounts
    deposits: Deposits
    refunds: Refunds
    stale: set[str]
    budget: GasBudget

    @property
    def ledger(self) -> Ledger:
        """As of the last commit."""
        return self.writer.ledger

    def account(self, payer: Payer) -> Account:
        """The payer's account."""
        return self.ledger.accounts[payer.account_id]

    def channel(self, payer: Payer, receiver: bytes = NEWS) -> Channel:
        """The payer's channel."""
        return self.ledger.channels[payer.channel_id(receiver)]

    async def fund(self, payer: Payer, amount: int, *receivers: bytes) -> None:
        """Give the payer a deposit, and channels to the receivers."""
        await self.chain.fund(payer.config, amount)
        for receiver in receivers:
            assert await self.channels.open(ESCROW_REF, payer.config.channel(receiver)) is None

    async def charge(self, payer: Payer, amount: int, ceiling: int, number: int = 900, receiver: bytes = NEWS) -> None:
        """Charge by a voucher."""
        from tallystick_aggregator.ledger.answers import Accepted  # noqa: PLC0415

        (answer,) = await self.batcher.charge([payer.payment(number, amount, ceiling=ceiling, receiver=receiver)])
        assert isinstance(answer, Accepted), answer


async def _at_once(_pause_s: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def marketplace(
    disk: MemoryDisk | None = None,
    rules: Rules | None = None,
    store: SqliteStore | None = None,
    gas: GasLimits = NO_LIMITS,
    limits: TransferLimits = NO_EXACT_LIMITS,
    more_escrows: Sequence[bytes] = (),
) -> AsyncIterator[Marketplace]:
    """Open a market on this disk, or in this store; the escrows and the token are new."""
    budget = GasBudget(gas)
    disk, rules = disk or MemoryDisk(), rules or Rules()
    journal, outbox = (store.journal, store.outbox) if store else (MemoryJournal(disk), MemoryOutbox(disk))
    stale: set[str] = set()
    writer = LedgerWriter(
        await journal.load(), journal, stale_escrows=lambda: frozenset(stale), clock_ms=lambda: NOW_MS
    )
    writing = asyncio.create_task(writer.serve())
    chain = ChainTwin(writer, outbox)
    chains = {one.ref: one for one in (chain, *(ChainTwin(writer, outbox, escrow) for escrow in more_escrows))}
    offers = {escrow: replace(OFFER, escrow=escrow.address) for escrow in chains}
    separators = {escrow: one.domain.separator for escrow, one in chains.items()}
    batcher = PaymentBatcher(writer, separators, rules, signatures=SignatureThreads(1))
    await chain.gas.load(outbox, NETWORK)
    channels = Channels(chains, offers, writer, rules)
    claims = Claims(lambda: NOW_S)
    transfers: dict[str, Any] = {
        "settle_timeout_s": 0.2,
        "budget": budget,
        "limits": limits,
        "claims": claims,
        "pause": _at_once,
    }
    accounts = Accounts(chains, offers, channels, writer, rules, lambda: NOW_S)
    try:
        yield Marketplace(
            disk,
            writer,
            outbox,
            chain,
            chains,
            batcher,
            rules,
            channels,
            DeferredPayments(offers, channels, batcher, writer),
            ExactPayments(chains, offers, outbox, lambda: NOW_S, **transfers),
            UptoPayments(chains, offers, outbox, lambda: NOW_S, **transfers),
            accounts,
            Deposits(chains, offers, writer, outbox, lambda: NOW_S, credit_timeout_s=0.2, budget=budget),
            Refunds(chains, accounts, writer, outbox, refund_timeout_s=0.2, budget=budget),
            stale,
            budget,
        )
    finally:
        writer.stop()
        await writing
        batcher.close()


def deposit_of(payer: Payer, amount: int, number: int = 0, **changes: object) -> DepositAuthorization:
    """The payer's signed deposit with this number; `changes` are made before it is signed."""
    deposit = DepositAuthorization(
        account=payer.config,
        amount=amount,
        valid_after=0,
        valid_before=NOW_S + 600,
        salt=sha256(b"deposit %d" % number).digest(),
        signature=b"",
    )
    deposit = replace(deposit, **changes)  # type: ignore[arg-type]
    struct = eip712.hash_receive_with_authorization(
        deposit.account.payer,
        ESCROW,
        deposit.amount,
        deposit.valid_after,
        deposit.valid_before,
        eip712.deposit_nonce(payer.account_id, deposit.salt),
    )
    return replace(deposit, signature=payer.signer.sign(eip712.digest(TOKEN_DOMAIN, struct)))


def transfer_of(payer: Payer, number: int = 0, **changes: object) -> ExactAuthorization:
    """The payer's signed transfer of PRICE to NEWS with this number; `changes` are made before it is signed."""
    transfer = ExactAuthorization(
        from_=payer.signer.address,
        to=NEWS,
        value=PRICE,
        valid_after=NOW_S - 600,
        valid_before=NOW_S + 60,
        nonce=sha256(b"transfer %d" % number).digest(),
        signature=b"",
    )
    transfer = replace(transfer, **changes)  # type: ignore[arg-type]
    struct = eip712.hash_transfer_with_authorization(
        transfer.from_, transfer.to, transfer.value, transfer.valid_after, transfer.valid_before, transfer.nonce
    )
    return replace(transfer, signature=payer.signer.sign(eip712.digest(TOKEN_DOMAIN, struct)))


def signed(payer: Payer, struct_hash: bytes, deadline: int = NOW_S + 60) -> SignedCall:
    """The payer's signature over a call."""
    return SignedCall(deadline, payer.signer.sign(eip712.digest(DOMAIN, struct_hash)))
