"""Two escrows on one network, in memory: an account of one payer in each, reserved, charged and refunded apart."""

from hashlib import sha256

import pytest
from doubles import NEWS, NOW_S, PAGE, Payer, payment_id_of
from marketplace import PRICE, TERMS, marketplace

from tallystick import eip712
from tallystick.charges import DeferredCharge
from tallystick.facilitator import Verified
from tallystick.reasons import Reason
from tallystick.vouchers import sign_voucher
from tallystick_aggregator.accounts.refunds import Refunded
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.charging import UncheckedPayment
from tallystick_aggregator.ledger.answers import Accepted, Refusal

SECOND = bytes.fromhex("5e" * 19 + "02")
ALICE = Payer("alice")


async def test_accounts_in_two_escrows_are_charged_and_refunded_apart() -> None:
    config = ALICE.config.channel(NEWS)
    async with marketplace(more_escrows=[SECOND]) as market:
        first, second = market.chains.values()

        def payment(number: int, ceiling: int, chain: object = first, signed_for: object = None) -> UncheckedPayment:
            domain = (signed_for or chain).domain  # type: ignore[attr-defined]
            channel = chain.channel_id(config)  # type: ignore[attr-defined]
            signature = sign_voucher(ALICE.signer, domain, channel, ceiling).signature
            return UncheckedPayment(channel, payment_id_of(number), PRICE, PAGE, ceiling, signature, None)

        for chain, funds in ((first, 10_000), (second, 4_000)):
            await chain.fund(ALICE.config, funds)
            # The terms name no escrow: it is the one in which the channel has its id.
            verified = await market.deferred.verify(TERMS, DeferredCharge(config, payment(1, PRICE, chain)))
            assert isinstance(verified, Verified), verified
            await market.deferred.settle(TERMS, verified.handle)

        answers = await market.batcher.charge(
            [payment(2, 2 * PRICE), payment(2, 2 * PRICE, second), payment(3, 3 * PRICE, second, signed_for=first)]
        )
        assert [isinstance(answer, Accepted) for answer in answers] == [True, True, False]
        assert isinstance(answers[2], Refusal)
        assert answers[2].reason is Reason.VOUCHER_SIGNATURE
        for chain, left in ((first, 9_800), (second, 3_800)):
            account = market.ledger.known_account(chain.account_id(ALICE.config))
            assert (account.escrow, account.available) == (chain.ref, left)

        account_id = second.account_id(ALICE.config)
        struct_hash = eip712.hash_request_refund(account_id, sha256(b"all").digest(), 0, NOW_S + 60)
        for domain, is_refunded in ((first.domain, False), (second.domain, True)):
            call = SignedCall(NOW_S + 60, ALICE.signer.sign(eip712.digest(domain, struct_hash)))
            answer = await market.refunds.refund(account_id, sha256(b"all").digest(), 0, call)
            assert isinstance(answer, Refunded) is is_refunded, answer
        assert [len(chain.sent) for chain in (first, second)] == [0, 1]


@pytest.mark.parametrize(("escrow", "served"), [(b"", True), (SECOND, True), (b"\x01" * 20, False)])
async def test_an_escrow_is_named_by_its_address_and_the_first_is_meant_by_none(escrow: bytes, served: bool) -> None:
    config = ALICE.config.channel(NEWS)
    async with marketplace(more_escrows=[SECOND]) as market:
        chain = list(market.chains.values())[bool(escrow)]
        await chain.fund(ALICE.config, 1_000)
        deadline = NOW_S + 60
        digest = eip712.digest(chain.domain, eip712.hash_open_channel(chain.channel_id(config), deadline))
        call = SignedCall(deadline, ALICE.signer.sign(digest))
        opened = await market.accounts.open_channel("eip155:31337", config, call, escrow)
        if served:
            assert not isinstance(opened, Refusal), opened
            assert opened.channel_id == chain.channel_id(config)
        else:
            assert isinstance(opened, Refusal)
            assert (opened.reason, opened.field) == (Reason.NETWORK_UNSUPPORTED, "escrow")
