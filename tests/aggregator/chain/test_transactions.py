"""Nonces that others used, bids and replacements, and what is signed."""

from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st
from memory_chain.contracts import Contracts
from memory_chain.node import MemoryNode

from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick_aggregator.chain.sending.bidding import bid, bump, usual_caps
from tallystick_aggregator.chain.sending.nonces import user_of_nonce
from tallystick_aggregator.chain.settings import FeeSettings
from tallystick_chain.fees import Bid, MarketFees
from tallystick_chain.transactions import Unsigned, sign

KEY = Signer(b"\x05" * 32)
FEES = FeeSettings(max_fee_per_gas_wei=1_000, priority_fee_per_gas_wei_max=100)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 200), st.data())
async def test_it_is_found_however_long_ago(gaps: list[int], after: int, data: st.DataObject) -> None:
    node = MemoryNode(Contracts(31337, b"\x01" * 20, b"\x02" * 20), base_fee=1)
    hashes: list[bytes] = []
    for nonce, gap in enumerate(gaps):
        node.mine(gap)
        attempt = sign(KEY, Unsigned(31337, nonce, 21_000, b"\x03" * 20, b""), Bid(100, 1))
        await node.send(attempt.raw)
        hashes.append(attempt.transaction_hash)
        if data.draw(st.booleans()):
            node.mine()
    node.mine(1 + after)
    head = await node.head()
    for nonce, expected in enumerate(hashes):
        assert await user_of_nonce(node, KEY.address, nonce, head.number) == expected


@given(st.integers(0, 2_000), st.integers(0, 2_000), st.booleans())
def test_a_bid_is_never_above_the_cap_nor_its_tip_above_itself(base: int, tip: int, urgent: bool) -> None:
    offer = bid(MarketFees(base, tip), FEES, urgent=urgent)
    assert 0 < offer.priority_fee <= offer.max_fee <= FEES.max_fee_per_gas_wei
    assert offer.priority_fee <= FEES.priority_fee_per_gas_wei_max


@given(st.integers(1, 1_000), st.integers(1, 1_000), st.integers(1, 1_000), st.integers(1, 1_000))
def test_a_replacement_is_an_eighth_higher_in_both_fees_or_is_not_made(
    max_fee: int, tip: int, wanted_fee: int, wanted_tip: int
) -> None:
    old, wanted = Bid(max_fee, min(tip, max_fee)), Bid(wanted_fee, min(wanted_tip, wanted_fee))
    raised = bump(old, wanted, usual_caps(FEES))
    if raised is None:
        too_dear = max(old.max_fee * 9 // 8, wanted.max_fee) >= FEES.max_fee_per_gas_wei
        assert too_dear or max(old.priority_fee * 9 // 8, wanted.priority_fee) >= FEES.priority_fee_per_gas_wei_max
        return
    assert raised.priority_fee <= FEES.priority_fee_per_gas_wei_max
    assert raised.max_fee * 8 >= old.max_fee * 9
    assert raised.priority_fee * 8 >= old.priority_fee * 9
    assert raised.max_fee >= wanted.max_fee
    assert raised.max_fee <= FEES.max_fee_per_gas_wei


def test_what_is_signed_is_what_eth_account_reads() -> None:
    unsigned = Unsigned(8453, 7, 123_456, b"\x0a" * 20, b"\x01\x02")
    attempt = sign(KEY, unsigned, Bid(30, 2))
    assert Account.recover_transaction(attempt.raw) == checksum(KEY.address)
    fields = TypedTransaction.from_bytes(HexBytes(attempt.raw)).as_dict()
    assert (fields["chainId"], fields["nonce"], fields["gas"]) == (8453, 7, 123_456)
    assert (fields["maxFeePerGas"], fields["maxPriorityFeePerGas"]) == (30, 2)
    assert (bytes(fields["to"]), bytes(fields["data"]), fields["value"]) == (unsigned.to, unsigned.data, 0)
