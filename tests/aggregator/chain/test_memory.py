"""The chain in memory against the real one: the same random history gives the same answers, errors, events and
balances. The order of events within a transaction is nobody's business.
"""

import random
from dataclasses import replace
from typing import Any

import pytest
from memory_chain.contracts import Contracts, call_data
from memory_chain.node import MemoryNode

from _anvil import Anvil, function
from anvil import DELAY_S, Devnet, Payer, receiver
from tallystick import eip712
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain.node import CallRevertedError
from tallystick_aggregator.chain.token import open_token
from tallystick_chain.errors import RpcError
from tallystick_chain.reverts import name_of
from tallystick_contracts import claim_batch
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch, ClaimRow

SELLERS = [receiver(number) for number in range(4)]
SESSION_KEY = receiver(9)


class Both:
    """Every call goes to both chains, which must agree on its outcome."""

    def __init__(self, devnet: Devnet, node: MemoryNode) -> None:
        self.devnet = devnet
        self.node = node
        self.outcomes: set[str] = set()

    def call(self, sender: bytes, to: bytes, data: bytes) -> None:
        self.devnet.anvil.set_ether(sender, 10**20)
        # Both clocks stand alike, so that delays and windows do.
        self.node.timestamp = int(self.devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
        self.devnet.anvil.rpc("evm_setNextBlockTimestamp", self.node.timestamp + 12)
        expected = _events(self.node, sender, to, data)
        assert _receipt(self.devnet.anvil, sender, to, data) == expected
        self.outcomes.add(expected if isinstance(expected, str) else "done")


def _events(node: MemoryNode, sender: bytes, to: bytes, data: bytes) -> Any:
    try:
        node.execute(sender, to, data)
    except CallRevertedError as reverted:
        return name_of(reverted.data) or "reverted"
    return sorted((source, log.topics, log.data) for source, log in node._blocks[-1].logs)


def _receipt(anvil: Anvil, sender: bytes, to: bytes, data: bytes) -> Any:
    try:
        receipt = anvil.send(sender, to, data)
    except RpcError as error:
        anvil.mine()
        return name_of(error.data) or "reverted"
    return sorted(
        (
            _bytes(log["address"]),
            tuple(_bytes(topic) for topic in log["topics"]),
            _bytes(log["data"]),
        )
        for log in receipt["logs"]
    )


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def twin_of(devnet: Devnet) -> MemoryNode:
    """A chain in memory whose contracts have the devnet's addresses."""
    return MemoryNode(Contracts(31337, devnet.escrow, devnet.token))


@pytest.mark.parametrize("seed", range(3))
async def test_random_histories_are_told_alike(devnet: Devnet, seed: int) -> None:
    rng = random.Random(seed)
    both = Both(devnet, twin_of(devnet))
    payers = [devnet.payer() for _ in range(3)]
    # One with a session key, which may start withdrawals too but not stand in the payer's way (C2).
    payers[2] = replace(payers[2], config=replace(payers[2].config, payer_authorizer=SESSION_KEY))
    for payer in payers:
        # The real token says a mint with a Transfer from nobody; the model is not that talkative.
        devnet.anvil.mint(devnet.token, payer.signer.address, 10_000)
        mint = function("mint(address,uint256)", payer.signer.address, 10_000)
        both.node.execute(payer.signer.address, devnet.token, mint)
    allow = function("setSender(address,bool)", devnet.sender.address, 1)
    both.call(devnet.operator.address, devnet.escrow, allow)
    for _ in range(60):
        payer = rng.choice(payers)
        random_step(both, rng, payer)
    await compare(both, payers)
    assert "done" in both.outcomes
    assert len(both.outcomes) >= 4  # some of it was refused, and for the same reasons


def random_step(both: Both, rng: random.Random, payer: Payer) -> None:
    devnet = both.devnet
    match rng.randrange(11):
        case 0 | 1:
            authorization = payer.authorization(rng.choice([500, 5_000, 50_000]))
            if rng.random() < 0.2:
                authorization = replace(authorization, amount=authorization.amount + 1)
            data = calls.deposit_with_authorization(authorization)
            both.call(devnet.sender.address, devnet.escrow, data)
            if rng.random() < 0.3:  # somebody lands it again
                both.call(SELLERS[0], devnet.escrow, data)
        case 2 | 3 | 4:
            sender = devnet.sender.address if rng.random() < 0.9 else SELLERS[0]
            batch = ClaimBatch(devnet.operator.address, devnet.token, tuple(random_claims(rng, devnet, payer)))
            both.call(sender, devnet.escrow, calls.call_data("claim", claim_batch.encode(batch)))
        case 5:
            held = both.node.world.escrow.accounts.get(payer.account_id)
            refund_nonce = held.refund_nonce if held else 0
            amount, nonce = rng.randrange(3_000), refund_nonce + (rng.random() < 0.2)
            digest = eip712.digest(devnet.domain, eip712.hash_refund(payer.account_id, nonce, amount))
            data = calls.call_data("refundWithSignature", payer.config, amount, nonce, devnet.operator.sign(digest))
            both.call(devnet.sender.address, devnet.escrow, data)
        case 6:
            data = call_data("Escrow", "initiateWithdraw", payer.config, rng.choice([0, 100, 2**127]))
            both.call(somebody(rng, payer), devnet.escrow, data)
        case 7:
            if rng.random() < 0.5:
                devnet.anvil.advance(DELAY_S)
            both.call(SELLERS[0], devnet.escrow, call_data("Escrow", "finalizeWithdraw", payer.config))
        case 8:  # frozen, or no longer: transfers leave amounts owed
            who = rng.choice([*SELLERS, payer.signer.address])
            listed = both.node.world.escrow.tokens[devnet.token].blacklist
            verb = "unBlacklist" if who in listed else "blacklist"
            devnet.anvil.send(devnet.operator.address, devnet.token, function(f"{verb}(address)", who))
            listed.symmetric_difference_update({who})
        case 9:
            creditor = rng.choice([*(to for to, _ in both.node.world.escrow.owed), payer.signer.address])
            both.call(SELLERS[0], devnet.escrow, calls.call_data("collect", creditor, devnet.token))
        case _:
            both.call(somebody(rng, payer), devnet.escrow, call_data("Escrow", "cancelWithdraw", payer.config))


def somebody(rng: random.Random, payer: Payer) -> bytes:
    """Who starts or cancels a withdrawal: the payer, its authorizer, or now and then somebody who may not."""
    parties = [payer.signer.address, payer.config.payer_authorizer]
    return rng.choice(parties) if rng.random() < 0.9 else SELLERS[0]


def random_claims(rng: random.Random, devnet: Devnet, payer: Payer) -> list[AccountClaim]:
    sellers = rng.sample(SELLERS, rng.randrange(1, 4))
    totals = [(seller, rng.randrange(1, 2_000)) for seller in sellers]
    config = payer.config
    named = (config.payer, config.payer_authorizer, config.withdraw_delay_s, config.salt)
    if rng.random() < 0.4:
        digest = eip712.digest(devnet.domain, eip712.hash_totals_approval(payer.account_id, totals))
        signer = payer.signer if rng.random() < 0.8 else devnet.operator
        rows = tuple(ClaimRow(seller, total, total, None) for seller, total in totals)
        return [AccountClaim(*named, rows, signer.sign(digest))]
    rows = tuple(
        ClaimRow(seller, total, total + rng.choice([-1, 0, 50]), payer.voucher(seller, total + 50).signature)
        if rng.random() < 0.2
        else ClaimRow(seller, total, total + 50, payer.voucher(seller, total + 50).signature)
        for seller, total in totals
    )
    return [AccountClaim(*named, rows)]


async def compare(both: Both, payers: list[Payer]) -> None:
    devnet = both.devnet
    account_ids = [payer.account_id for payer in payers]
    channel_ids = [payer.channel_id(seller) for payer in payers for seller in SELLERS]
    queries = [
        (devnet.escrow, calls.words_query(calls.ACCOUNTS, account_ids)),
        (devnet.escrow, calls.words_query(calls.CLAIMED, channel_ids)),
        (devnet.escrow, calls.call_data("isSender", devnet.operator.address, devnet.sender.address)),
        (devnet.escrow, calls.call_data("domainSeparator")),
        *((devnet.token, function("balanceOf(address)", holder)) for holder in (*SELLERS, devnet.escrow)),
        *((devnet.escrow, calls.call_data("owed", holder, devnet.token)) for holder in SELLERS),
        (devnet.escrow, calls.call_data("owed", SELLERS[0], devnet.escrow)),
        *((devnet.token, function("balanceOf(address)", payer.signer.address)) for payer in payers),
    ]
    for to, data in queries:
        assert devnet.anvil.call(to, data) == await both.node.call(to, data, await both.node.head())


async def test_exact_transfers_are_told_alike(devnet: Devnet) -> None:
    payer = devnet.payer()
    both = Both(devnet, twin_of(devnet))
    devnet.anvil.mint(devnet.token, payer.signer.address, 100)
    mint = function("mint(address,uint256)", payer.signer.address, 100)
    both.node.execute(payer.signer.address, devnet.token, mint)
    token = await open_token(both.node, 31337, devnet.token_settings, await both.node.head())
    assert (token.by_parts, token.by_bytes) == (True, True)
    for value in (60, 60, 40):
        struct = eip712.hash_transfer_with_authorization(
            payer.signer.address, SELLERS[0], value, 0, 2**48, value.to_bytes(32, "big")
        )
        signature = payer.signer.sign(eip712.digest(devnet.token_domain, struct))
        call = token.transfer_call(
            ExactAuthorization(payer.signer.address, SELLERS[0], value, 0, 2**48, value.to_bytes(32, "big"), signature)
        )
        both.call(devnet.sender.address, call.to, call.data)
    assert devnet.balance(SELLERS[0]) == 100
    assert both.node.world.balances[SELLERS[0]] == 100
