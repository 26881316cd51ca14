"""A chain twin over x402BatchSettlement: the real binding, whose calldata a model of the contract takes.

What ChainTwin does about blocks, the outbox, trials and the mirror is the same here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from hashlib import sha256
from typing import Final, cast

from chain_twin import TOKEN_DOMAIN, ChainTwin, Permit2TokenTwin
from doubles import TOKEN

import escrow_model
from batch_settlement_model import ADDRESS, BatchSettlementModel, ChannelModel, as_log
from escrow_model import TokenModel
from tallystick import eip712
from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick.signatures import Signer
from tallystick_aggregator.chain import batch_settlement_calls as calls
from tallystick_aggregator.chain.batch_settlement_escrow import BatchSettlementEscrow
from tallystick_aggregator.chain.node import Node
from tallystick_aggregator.chain.port import (
    Block,
    Call,
    DepositAuthorization,
    EscrowAccount,
    Heard,
    Landing,
    RevertedError,
    Stake,
)
from tallystick_aggregator.charging.port import Writer
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger.commands import DecisionContext
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.port import OutboundTransaction, Outbox, Payout, TransactionKind
from tallystick_contracts.batch_settlement import Event

CHAIN_ID: Final = 31337
BATCH_OPERATOR: Final = Signer(sha256(b"batch operator").digest())
"""The receiverAuthorizer whose key the aggregator has."""
BATCH_DOMAIN: Final = eip712.batch_settlement_domain(CHAIN_ID)
DELAY_S_MIN: Final = 10_800


class EscrowTwin(BatchSettlementEscrow):
    """The binding; it reads the model where it would ask a node."""

    def __init__(self, chain: "BatchTwin") -> None:
        nobody = cast("Node", None)
        super().__init__(nobody, CHAIN_ID, BATCH_OPERATOR.address, BATCH_OPERATOR, DELAY_S_MIN)
        self._chain = chain

    async def accounts(
        self, account_ids: Sequence[bytes], block: Block, heard: Heard | None = None
    ) -> Sequence[EscrowAccount]:
        del block, heard
        self._chain._answer()
        found = [self._chain.batch.channels.get(id_, ChannelModel()) for id_ in account_ids]
        return [
            EscrowAccount(
                one.unclaimed, one.refund_nonce, 0, one.withdrawing, one.withdraw_at and one.withdraw_at + DELAY_S_MIN
            )
            for one in found
        ]

    async def claimed(self, channel_ids: Sequence[bytes], block: Block, heard: Heard | None = None) -> Sequence[int]:
        del block, heard
        self._chain._answer()
        return [self._chain.batch.channels.get(id_, ChannelModel()).claimed for id_ in channel_ids]

    async def receiver_totals(self, to: bytes, token: bytes, block: Block) -> tuple[int, int]:
        del block
        self._chain._answer()
        owed = self._chain.batch.owed.get((to, token))
        return (owed.claimed, owed.settled) if owed else (0, 0)


class ApprovedTokenTwin(Permit2TokenTwin):
    """The token and Permit2 as the model keeps them."""

    def __init__(self, chain: "BatchTwin", *, sponsors_permits: bool = False) -> None:
        super().__init__(chain, sponsors_permits=sponsors_permits)
        self._batch = chain

    async def authorization_used(self, authorizer: bytes, nonce: bytes, block: Block) -> bool:
        del block
        self._batch._answer()
        return (authorizer, nonce) in self._batch.batch.nonces

    async def allowance(self, owner: bytes, block: Block) -> int:
        del block
        self._batch._answer()
        return self._batch.batch.allowances.get(owner, 0)

    async def permit_nonce(self, owner: bytes, block: Block) -> int:
        del block
        self._batch._answer()
        return self._batch.batch.permits.get(owner, 0)


class BatchTwin(ChainTwin):
    """See `chain.port.Chain`, of the canonical contract."""

    operator = BATCH_OPERATOR.address

    def __init__(self, writer: Writer, outbox: Outbox) -> None:
        super().__init__(writer, outbox, ADDRESS)
        self.domain: Domain = BATCH_DOMAIN
        token = TokenModel(TOKEN, TOKEN_DOMAIN, signed=self._signed)
        self.batch = BatchSettlementModel(BATCH_DOMAIN, token, signed=self._signed)
        self.ref = EscrowRef(self.network, ADDRESS)
        self._binding = EscrowTwin(self)
        self.refunds: dict[tuple[bytes, int], int] = {}
        """By channel and nonce: what refunds of ours have paid."""
        self.withdrawals: list[Callable[[], None]] = []
        self.debtors: list[Callable[[bytes, bytes], None]] = []

    @property
    def escrow(self) -> EscrowTwin:  # type: ignore[override]
        return self._binding

    @property
    def balances(self) -> dict[bytes, int]:
        return self.batch.token.balances

    @property
    def used(self) -> set[tuple[bytes, bytes]]:
        return self.batch.token.used

    def is_held_back(self, account_id: bytes) -> bool:
        return account_id in self.batch.channels and not self.confirming

    async def deposit_landing(self, deposit: DepositAuthorization) -> Landing | None:
        self._answer()
        self.looked_back += 1
        key = deposit.account.payer, self.escrow.deposit_token_nonce(deposit)
        return Landing(sha256(b"another's").digest(), 99, self.landed.get(key, 0)) if key in self.used else None

    async def refund_landing(self, account_id: bytes, nonce: int) -> Landing | None:
        self._answer()
        paid = self.refunds.get((account_id, nonce))
        return None if paid is None else Landing(sha256(b"another's").digest(), 99, paid)

    def on_withdrawal(self, listener: Callable[[], None]) -> None:
        self.withdrawals.append(listener)

    def on_owed(self, listener: Callable[[bytes, bytes], None]) -> None:
        self.debtors.append(listener)

    def hurry(self, stakes: Mapping[int, Stake]) -> None:
        del stakes

    # What tests do.

    def do(self, sender: bytes, data: bytes) -> list[Event]:
        """Have somebody send a call to the contract in a block of its own. Raises RevertedError."""
        after = self.batch.copy()
        try:
            events = after.run(sender, data, self.block_s)
        except escrow_model.TokenRevertedError as reverted:
            raise RevertedError(reverted.text) from reverted
        except escrow_model.RevertedError as reverted:
            raise RevertedError(reverted.name, by_contract=True) from reverted
        self.batch = after
        self.number += 1
        return events

    async def fund(self, config: ChannelConfig, amount: int) -> None:
        """Give a channel money by some other way, and mirror it."""
        self.credit(config, amount)
        await self.look()

    def credit(self, config: ChannelConfig, amount: int) -> None:
        """The same without a look."""
        self.batch.channel(calls.Config(*astuple(config))).balance += amount
        self.balances[ADDRESS] = self.balances.get(ADDRESS, 0) + amount

    async def look(self) -> None:
        """Mirror all channels whose receiverAuthorizer is ours, as the watcher does; refunds that passed have ended."""

        def decision(draft: Draft, ledger: Ledger, _: DecisionContext) -> None:
            for id_, held in self.batch.channels.items():
                config = self.batch.configs[id_]
                if config.receiver_authorizer != self.operator or not (held.balance or draft.account(id_)):
                    continue
                accounts.open_account(draft, id_, self.ref, ChannelConfig(*config))
                at = accounts.AccountAtBlock(held.unclaimed, {id_: held.claimed})
                finalizes_at = held.withdraw_at and held.withdraw_at + DELAY_S_MIN
                accounts.mirror(
                    draft,
                    ledger,
                    accounts.AccountOnChain(id_, at, at, held.withdrawing, finalizes_at, 0, self.confirming),
                )
                account = draft.account(id_)
                assert account is not None
                if account.refund is not None and account.refund.nonce < held.refund_nonce:
                    accounts.end_refund(draft, id_, account.refund.refund_id)

        await self.writer.run(decision)
        if any(channel.withdraw_at for channel in self.batch.channels.values()):
            for listener in self.withdrawals:
                listener()

    def continue_from(self, other: "ChainTwin") -> None:
        assert isinstance(other, BatchTwin)
        self.batch, self.number = other.batch, other.number

    def _try(self, call: Call, gas_max: int) -> None:
        self._gas_left = gas_max
        before = self.batch, self.number
        self.is_trial = True
        try:
            self.do(self.sender, call.data)
        finally:
            self.is_trial = False
            self.batch, self.number = before

    def _land(self, outbound: OutboundTransaction) -> tuple[Payout, ...]:
        logs = [as_log(event, self.number) for event in self.do(self.sender, outbound.data)]
        self.number -= 1  # `do` has mined a block of its own
        payouts = self.escrow.payouts(outbound, logs)
        if outbound.kind in {TransactionKind.CLAIM, TransactionKind.REFUND}:
            for to, token in self.escrow.debts(outbound, logs):
                for listener in self.debtors:
                    listener(to, token)
        return payouts
