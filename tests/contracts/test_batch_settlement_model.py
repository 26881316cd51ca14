"""The contract's model in Python says what the stand-in does: the same events, the same errors, call for call."""

from dataclasses import astuple, replace
from typing import Any

import pytest

from anvil import Devnet, receiver
from batch_channels import (
    AUTHORIZER,
    DELAY_S,
    DOMAIN,
    ESCROW,
    BatchChannel,
    approve_permit2,
    batch_channel,
    put_batch_settlement,
)
from batch_settlement_model import (
    FINALIZE_WITHDRAW,
    INITIATE_WITHDRAW,
    REFUND,
    BatchSettlementModel,
    as_log,
)
from escrow_model import RevertedError, TokenModel
from tallystick.x402.batch_settlement import VoucherClaim
from tallystick_aggregator.chain import batch_settlement_calls as calls
from tallystick_chain.errors import RpcError
from tallystick_chain.reverts import name_of
from tallystick_contracts.attribution import charge_counts_suffix
from tallystick_contracts.batch_settlement import ERRORS

NEWS, MUSIC = receiver(1), receiver(2)
STRANGER = bytes.fromhex("05" * 20)
MONEY = 100_000
ANOTHERS = "the error of a token or of Permit2"


class Both:
    """The stand-in on Anvil and the model; every call goes to both, and must end alike."""

    def __init__(self, devnet: Devnet) -> None:
        put_batch_settlement(devnet.anvil)
        self.devnet = devnet
        self.model = BatchSettlementModel(DOMAIN, TokenModel(devnet.token, devnet.token_domain))
        self.ends: list[str] = []

    def payer(self, to: bytes = NEWS, **changes: Any) -> BatchChannel:
        channel = batch_channel(self.devnet, to, **changes)
        self.devnet.anvil.mint(self.devnet.token, channel.payer.address, MONEY)
        self.devnet.anvil.set_ether(channel.payer.address, 10**18)
        self.model.token.balances[channel.payer.address] = MONEY
        return channel

    def call(self, data: bytes, sender: bytes = STRANGER) -> None:
        self.devnet.anvil.set_ether(sender, 10**18)
        said: list[tuple[tuple[bytes, ...], bytes]] = []
        try:
            receipt = self.devnet.anvil.send(sender, ESCROW, data)
        except RpcError as reverted:
            end = name_of(reverted.data) or ANOTHERS
            now_s = int(self.devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16) + 1
        else:
            end = "done"
            block = self.devnet.anvil.rpc("eth_getBlockByHash", receipt["blockHash"], False)
            now_s = int(block["timestamp"], 16)
            said = [
                (tuple(bytes.fromhex(topic[2:]) for topic in log["topics"]), bytes.fromhex(log["data"][2:]))
                for log in receipt["logs"]
                if bytes.fromhex(log["address"][2:]) == ESCROW
            ]
        assert self._run(sender, data, now_s) == [end, said]
        self.ends.append(end)

    def _run(self, sender: bytes, data: bytes, now_s: int) -> list[Any]:
        """How the call ends on the model, and what it says."""
        after = self.model.copy()
        try:
            events = after.run(sender, data, now_s)
        except RevertedError as reverted:
            return [reverted.name if reverted.name in ERRORS else ANOTHERS, []]
        self.model = after
        return ["done", [(log.topics, log.data) for _, log in map(as_log, events)]]

    def claim(self, *rows: VoucherClaim, signer: Any = AUTHORIZER, suffix: bytes = b"") -> None:
        self.call(calls.claim_call(rows, batch_channel(self.devnet, NEWS).sign_claims(rows, signer)) + suffix)

    def agree(self, *channels: BatchChannel) -> None:
        """The state is alike."""
        for channel in channels:
            held = self.model.channels[channel.id]
            assert channel.state == (held.balance, held.claimed)
            assert channel.words("refundNonce", channel.id) == (held.refund_nonce,)
            assert channel.words("pendingWithdrawals", channel.id) == (held.withdrawing, held.withdraw_at)
        for holder, amount in self.model.token.balances.items():
            assert self.devnet.balance(holder) == amount


@pytest.fixture
def both(devnet: Devnet) -> Both:
    return Both(devnet)


def test_deposits(both: Both) -> None:
    alice, bob = both.payer(), both.payer(MUSIC)
    first = calls.deposit_call(alice.config, 1_000, alice.erc3009(1_000))
    both.call(first)
    both.call(first)
    both.call(calls.deposit_call(alice.config, 500, alice.erc3009(500)))
    both.call(calls.deposit_call(bob.config, 700, alice.erc3009(700)))
    both.call(calls.deposit_call(bob.config, 0, bob.erc3009(0)))
    both.call(calls.deposit_call(replace(bob.config, receiver=bytes(20)), 10, bob.erc3009(10)))
    by_permit2 = calls.deposit_call(bob.config, 300, bob.permit2(300))
    both.call(by_permit2)
    approve_permit2(bob)
    both.model.allowances[bob.payer.address] = 2**256 - 1
    both.call(by_permit2)
    both.call(by_permit2)
    both.agree(alice, bob)
    assert both.ends.count("done") == 3


def test_claims_settlements_and_refunds(both: Both) -> None:
    alice, bob = both.payer(), both.payer(MUSIC)
    for channel in (alice, bob):
        both.call(calls.deposit_call(channel.config, 1_000, channel.erc3009(1_000)))
    both.claim(alice.claim(300), bob.claim(200), suffix=charge_counts_suffix([3, 2]))
    both.claim(alice.claim(300), bob.claim(250, 400))
    both.claim(alice.claim(1_001))
    both.claim(alice.claim(500, 400))
    both.claim(alice.claim(400), signer=alice.payer)
    both.claim(replace(alice.claim(400), signature=bob.voucher(400).signature))
    rows = [((astuple(alice.config), 350), alice.voucher(350).signature, 350)]
    both.call(calls.CLAIM.call(rows), NEWS)
    both.call(calls.CLAIM.call(rows), MUSIC)
    both.call(calls.CLAIM.call([]), NEWS)
    for to in (NEWS, NEWS, MUSIC):
        both.call(calls.SETTLE.call(to, both.devnet.token))
    refund = calls.refund_call(alice.config, 100, 0, alice.sign_refund(100, 0))
    both.call(refund)
    both.call(refund)
    both.call(calls.refund_call(alice.config, 100, 1, alice.sign_refund(100, 1, alice.payer)))
    claim = calls.claim_call([alice.claim(500)], alice.sign_claims([alice.claim(500)]))
    rest = calls.refund_call(alice.config, 10_000, 1, alice.sign_refund(10_000, 1))
    both.call(calls.multicall([claim, rest]))
    both.call(calls.refund_call(alice.config, 1, 2, alice.sign_refund(1, 2)))
    both.call(REFUND.call(astuple(bob.config), 50), MUSIC)
    both.call(REFUND.call(astuple(bob.config), 50), NEWS)
    both.agree(alice, bob)
    assert both.ends.count("done") == 12


def test_withdrawals(both: Both) -> None:
    alice = both.payer()
    both.call(calls.deposit_call(alice.config, 1_000, alice.erc3009(1_000)))
    payer, config = alice.payer.address, astuple(alice.config)
    both.call(INITIATE_WITHDRAW.call(config, 1_001), payer)
    both.call(INITIATE_WITHDRAW.call(config, 800), STRANGER)
    both.call(INITIATE_WITHDRAW.call(config, 800), payer)
    both.call(INITIATE_WITHDRAW.call(config, 10), payer)
    both.claim(alice.claim(300))
    both.call(calls.refund_call(alice.config, 50, 0, alice.sign_refund(50, 0)))
    both.call(FINALIZE_WITHDRAW.call(config), payer)
    both.devnet.anvil.advance(DELAY_S)
    both.call(FINALIZE_WITHDRAW.call(config), payer)
    both.call(FINALIZE_WITHDRAW.call(config), payer)
    both.agree(alice)
    other = both.payer(MUSIC)
    both.call(calls.deposit_call(other.config, 10, other.erc3009(10)))
    both.call(calls.refund_call(other.config, 10, 0, other.sign_refund(10, 0)))
    both.call(calls.deposit_call(other.config, 10, other.erc3009(10)))
    both.agree(alice, other)
