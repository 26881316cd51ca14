"""Payments by Permit2 on a chain: the calls, what is read, what the start looks for, and what it costs."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import pytest
from harness import Side, chain_side

from _anvil import function, hexed
from anvil import CHAIN_ID, NETWORK, Devnet, Payer, receiver
from tallystick import eip712
from tallystick.eip712 import ESCROW_NAME, ESCROW_VERSION, PERMIT2_ADDRESS, permit2_domain
from tallystick.facilitator import Settled, Verified
from tallystick.reasons import Reason
from tallystick.x402 import Network, PaymentTerms, Permit2Authorization, TokenPermit
from tallystick_aggregator.accounts.offers import EscrowOffer
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.schemes.exact import Claims, ExactPayments
from tallystick_aggregator.schemes.exact.preconditions import TRANSFER_GAS_MAX
from tallystick_aggregator.schemes.upto import UptoPayments
from tallystick_aggregator.store.port import TransactionKind

NEWS = receiver(1)
VALUE = 1_000
EVERYTHING = 2**256 - 1


@dataclass
class Stall:
    """Both schemes over one chain, and a payer with money in a token without ERC-3009."""

    devnet: Devnet
    side: Side
    token: bytes
    payer: Payer
    exact: ExactPayments
    upto: UptoPayments

    def terms(self, scheme: str, amount: int = VALUE) -> PaymentTerms:
        return PaymentTerms(scheme, Network.parse(NETWORK, "network"), amount, self.token, NEWS)

    def approve(self, amount: int = EVERYTHING) -> None:
        self.devnet.anvil.send(
            self.payer.signer.address, self.token, function("approve(address,uint256)", PERMIT2_ADDRESS, amount)
        )

    def permit(self, nonce: int = 0) -> TokenPermit:
        owner = self.payer.signer.address
        permit = TokenPermit(owner, self.token, PERMIT2_ADDRESS, VALUE, nonce, int(time.time()) + 600, b"")
        domain = eip712.Domain("Permit Dollar", "1", CHAIN_ID, self.token)
        return replace(permit, signature=self.payer.signer.sign(eip712.digest(domain, permit.struct_hash())))

    def payment(self, scheme: str, number: int = 0, **changes: Any) -> Permit2Authorization:
        of_upto = scheme == "upto"
        payment = Permit2Authorization(
            from_=self.payer.signer.address,
            to=NEWS,
            token=self.token,
            permitted=VALUE,
            value=VALUE,
            spender=eip712.UPTO_PERMIT2_PROXY_ADDRESS if of_upto else eip712.EXACT_PERMIT2_PROXY_ADDRESS,
            valid_after=0,
            deadline=int(time.time()) + 600,
            nonce=sha256(b"payment %d" % number).digest(),
            signature=b"",
            facilitator=self.devnet.sender.address if of_upto else None,
        )
        payment = replace(payment, **changes)
        digest = eip712.digest(permit2_domain(CHAIN_ID), payment.struct_hash())
        return replace(payment, signature=self.payer.signer.sign(digest))

    def received(self) -> int:
        return self.devnet.anvil.token_balance(self.token, NEWS)


@asynccontextmanager
async def stall(devnet: Devnet) -> AsyncIterator[Stall]:
    token = devnet.put_permit2()
    payer = devnet.payer()
    devnet.anvil.mint(token, payer.signer.address, 10 * VALUE)
    devnet.anvil.set_ether(payer.signer.address, 10**18)
    settings = devnet.permit_token_settings(token)
    async with chain_side(devnet, tokens=(devnet.token_settings, settings)) as side:
        offered = {one.address: one for one in (devnet.token_settings, settings)}
        offer = EscrowOffer(
            NETWORK, devnet.escrow, ESCROW_NAME, ESCROW_VERSION, devnet.operator.address, offered, 900, 2**20, 86_400
        )
        claims = Claims(lambda: int(time.time()))
        schemes = [
            scheme({offer.ref: side.chain}, {offer.ref: offer}, side.outbox, lambda: int(time.time()), claims=claims)
            for scheme in (ExactPayments, UptoPayments)
        ]
        yield Stall(devnet, side, token, payer, *schemes)  # type: ignore[arg-type]


async def test_exact_is_refused_until_permit2_is_approved_and_then_settled(devnet: Devnet) -> None:
    async with stall(devnet) as s:
        payment = s.payment("exact")
        refusal = await s.exact.verify(s.terms("exact"), payment)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.PERMIT2_ALLOWANCE_REQUIRED
        s.approve()
        assert await s.exact.verify(s.terms("exact"), payment) == Verified(payment.from_)
        settled = await s.exact.settle(s.terms("exact"), payment)
        assert isinstance(settled, Settled)
        assert s.received() == settled.amount == VALUE
        block = await s.side.chain.head()
        proxied = s.side.chain.permit2_tokens[s.token]
        assert await proxied.authorization_used(payment.from_, payment.nonce, block)
        assert not await proxied.authorization_used(payment.from_, s.payment("exact", 1).nonce, block)


async def test_an_authorization_that_somebody_else_landed_is_told(devnet: Devnet) -> None:
    async with stall(devnet) as s:
        s.approve()
        payment = s.payment("exact")
        call = s.side.chain.permit2_tokens[s.token].transfer_call(payment)
        devnet.anvil.send(devnet.operator.address, call.to, call.data)
        for ask in (s.exact.verify, s.exact.settle):
            answer = await ask(s.terms("exact"), payment)
            assert isinstance(answer, Refusal)
            assert answer.reason is Reason.EXACT_NONCE_USED


@pytest.mark.parametrize("scheme", ["exact", "upto"])
async def test_a_permit_approves_on_the_way_within_the_gas_cap(devnet: Devnet, scheme: str) -> None:
    async with stall(devnet) as s:
        proxied, head = s.side.chain.permit2_tokens[s.token], await s.side.chain.head()
        assert await proxied.permit_nonce(s.payer.signer.address, head) == 0
        payments: Any = s.exact if scheme == "exact" else s.upto
        payment = s.payment(scheme, permit=s.permit())
        assert isinstance(await payments.verify(s.terms(scheme), payment), Verified)
        settled = await payments.settle(s.terms(scheme), payment)
        assert isinstance(settled, Settled)
        receipt = devnet.anvil.rpc("eth_getTransactionReceipt", hexed(settled.transaction))
        assert int(receipt["gasUsed"], 16) < TRANSFER_GAS_MAX
        again = await payments.verify(s.terms(scheme), s.payment(scheme, 1, permit=s.permit()))
        assert isinstance(again, Refusal)
        assert (again.reason, again.got, again.allowed) == (Reason.PERMIT2_PERMIT, "0", "1")
        assert s.received() == VALUE


async def test_upto_moves_what_was_used_and_tells_it_from_the_chain(devnet: Devnet) -> None:
    async with stall(devnet) as s:
        s.approve()
        payment = s.payment("upto")
        assert isinstance(await s.upto.verify(s.terms("upto"), payment), Verified)
        settled = await s.upto.settle(s.terms("upto", 300), payment)
        assert isinstance(settled, Settled)
        assert settled.amount == s.received() == 300
        again = await s.upto.settle(s.terms("upto", 900), payment)
        assert again == replace(settled, replayed=True)
        nothing = await s.upto.settle(s.terms("upto", 0), s.payment("upto", 1))
        assert nothing == Settled(s.payer.signer.address, 0)
        assert s.received() == 300


async def test_upto_can_be_sent_by_its_facilitator_only(devnet: Devnet) -> None:
    async with stall(devnet) as s:
        s.approve()
        call = s.side.chain.permit2_tokens[s.token].transfer_call(s.payment("upto"))
        with pytest.raises(Exception, match="revert"):
            devnet.anvil.send(devnet.operator.address, call.to, call.data)


async def test_x2_a_payer_whose_contract_burns_gas_costs_no_transaction(devnet: Devnet) -> None:
    endless = bytes.fromhex("5b600056")
    async with stall(devnet) as s:
        s.approve()
        devnet.anvil.rpc("anvil_setCode", hexed(s.payer.signer.address), hexed(endless))
        refusal = await s.exact.settle(s.terms("exact"), replace(s.payment("exact"), signature=b"whatever"))
        assert isinstance(refusal, Refusal)
        assert refusal.reason in {Reason.EXACT_SIGNATURE, Reason.EXACT_GAS, Reason.SIMULATION_FAILED}
        assert await s.side.outbox.open(NETWORK) == []


async def test_the_gas_budget_counts_payments_by_permit2(devnet: Devnet) -> None:
    async with stall(devnet) as s:
        s.approve()
        before = s.side.chain.gas.spent(TransactionKind.EXACT)
        assert isinstance(await s.upto.settle(s.terms("upto"), s.payment("upto")), Settled)
        assert s.side.chain.gas.spent(TransactionKind.EXACT) > before


async def test_a_start_without_the_contracts_says_which_is_missing(devnet: Devnet) -> None:
    token = replace(devnet.token_settings, by_permit2=True)
    with pytest.raises(ConfigurationError, match="there is no Permit2 at 0x000000000022D473030F116dDEE9F6B43aC78BA3"):
        async with chain_side(devnet, tokens=(token,)):
            raise AssertionError("started")


async def test_a_start_that_would_land_permits_of_a_token_without_them_is_refused(devnet: Devnet) -> None:
    devnet.put_permit2()
    token = replace(devnet.token_settings, by_permit2=True, sponsors_permits=True)
    with pytest.raises(ConfigurationError, match="eip2612"):
        async with chain_side(devnet, tokens=(token,)):
            raise AssertionError("started")
