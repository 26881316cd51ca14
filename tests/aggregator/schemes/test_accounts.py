from hashlib import sha256

import pytest
from doubles import DOMAIN, MUSIC, NETWORK, NEWS, NOW_S, Payer
from marketplace import Marketplace, marketplace, signed

from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.quantities import ChannelTotals
from tallystick.reasons import Reason
from tallystick.spend_keys import key_hash
from tallystick_aggregator.accounts.accounts import CHANNELS_PER_PAGE, AccountPage
from tallystick_aggregator.accounts.signed_calls import SignedCall, call_is_signed
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.approvals import Totals
from tallystick_aggregator.ledger.commands import Rules
from tallystick_aggregator.ledger.state import SpendKey

ALICE = Payer("alice")
MALLORY = Payer("mallory")
KEY_ID = sha256(b"key").digest()
SECRET = sha256(b"secret").digest()


def reason_of(answer: object) -> Reason:
    assert isinstance(answer, Refusal), answer
    return answer.reason


def read_call(payer: Payer = ALICE, deadline: int = NOW_S + 60) -> SignedCall:
    return signed(payer, eip712.hash_read_account(ALICE.account_id, deadline), deadline)


# Signed calls.


@pytest.mark.parametrize("deadline", [NOW_S - 1, NOW_S, NOW_S + 361, 2**64 - 1])
def test_a_call_whose_time_is_not_now_is_refused(deadline: int) -> None:
    struct = eip712.hash_read_account(ALICE.account_id, deadline)
    answer = call_is_signed(DOMAIN, struct, signed(ALICE, struct, deadline), ALICE.signer.address, NOW_S)
    assert reason_of(answer) is Reason.CALL_EXPIRED


@pytest.mark.parametrize("deadline", [NOW_S + 1, NOW_S + 300])
def test_a_call_within_its_time_is_taken(deadline: int) -> None:
    struct = eip712.hash_read_account(ALICE.account_id, deadline)
    assert call_is_signed(DOMAIN, struct, signed(ALICE, struct, deadline), ALICE.signer.address, NOW_S) is None


def test_a_call_signed_for_another_chain_contract_account_or_purpose_is_refused() -> None:
    deadline = NOW_S + 60
    right = eip712.hash_read_account(ALICE.account_id, deadline)
    wrong = [
        eip712.digest(Domain(DOMAIN.name, DOMAIN.version, 1, DOMAIN.verifying_contract), right),
        eip712.digest(Domain(DOMAIN.name, DOMAIN.version, 31337, MUSIC), right),
        eip712.digest(DOMAIN, eip712.hash_read_account(MALLORY.account_id, deadline)),
        eip712.digest(DOMAIN, eip712.hash_open_channel(ALICE.account_id, deadline)),
    ]
    for digest in wrong:
        call = SignedCall(deadline, ALICE.signer.sign(digest))
        answer = call_is_signed(DOMAIN, right, call, ALICE.signer.address, NOW_S)
        assert reason_of(answer) is Reason.CALL_SIGNATURE


@pytest.mark.parametrize("signature", [bytes(65), b"\xff" * 65, b"", bytes(64)])
def test_a_signature_that_is_none_is_refused(signature: bytes) -> None:
    struct = eip712.hash_read_account(ALICE.account_id, NOW_S + 60)
    call = SignedCall(NOW_S + 60, signature)
    assert reason_of(call_is_signed(DOMAIN, struct, call, ALICE.signer.address, NOW_S)) is Reason.CALL_SIGNATURE


# Reading.


async def test_an_account_is_read_by_its_own_payer_only(market: Marketplace) -> None:
    assert reason_of(market.accounts.read(ALICE.account_id, read_call())) is Reason.ACCOUNT_UNKNOWN
    await market.fund(ALICE, 1_000, NEWS, MUSIC)
    page = market.accounts.read(ALICE.account_id, read_call())
    assert isinstance(page, AccountPage)
    assert (page.account.funds, [c.receiver for c in page.channels], page.more) == (1_000, [NEWS, MUSIC], False)
    assert reason_of(market.accounts.read(ALICE.account_id, read_call(MALLORY))) is Reason.CALL_SIGNATURE


async def test_channels_come_in_pages(market: Marketplace) -> None:
    assert CHANNELS_PER_PAGE == 1_000
    market.accounts._per_page = 2
    receivers = [number.to_bytes(20, "big") for number in range(1, 6)]
    await market.fund(ALICE, 1_000, *receivers)
    seen: list[ChannelTotals] = []
    more = True
    while more:
        page = market.accounts.read(ALICE.account_id, read_call(), seen[-1].channel_id if seen else b"")
        assert isinstance(page, AccountPage)
        assert len(page.channels) <= 2
        seen += page.channels
        more = page.more
    assert [totals.receiver for totals in seen] == receivers
    unknown = market.accounts.read(ALICE.account_id, read_call(), bytes(32))
    assert reason_of(unknown) is Reason.CHANNEL_UNKNOWN


# Channels.


async def test_a_payer_opens_a_channel_by_its_signature(market: Marketplace) -> None:
    await market.fund(ALICE, 1_000)
    config = ALICE.config.channel(NEWS)
    struct = eip712.hash_open_channel(ALICE.channel_id(), NOW_S + 60)
    assert reason_of(await market.accounts.open_channel(NETWORK, config, signed(MALLORY, struct))) is (
        Reason.CALL_SIGNATURE
    )
    totals = await market.accounts.open_channel(NETWORK, config, signed(ALICE, struct))
    assert totals == ChannelTotals(ALICE.channel_id(), NEWS, 0, 0, 0, 0)
    assert await market.accounts.open_channel(NETWORK, config, signed(ALICE, struct)) == totals


async def test_a_channel_on_an_unknown_network_is_not_opened(market: Marketplace) -> None:
    answer = await market.accounts.open_channel("eip155:1", ALICE.config.channel(NEWS), None)
    assert reason_of(answer) is Reason.NETWORK_UNSUPPORTED


# Spend keys.


async def register(
    market: Marketplace, *, secret: bytes = SECRET, cap: int = 500, signer: Payer = ALICE, key_id: bytes = KEY_ID
) -> SpendKey | Refusal:
    expires_at, deadline = NOW_S + 3_600, NOW_S + 60
    struct = eip712.hash_register_spend_key(ALICE.account_id, key_id, key_hash(SECRET), cap, expires_at, deadline)
    return await market.accounts.register_spend_key(
        ALICE.account_id, key_id, secret, cap, expires_at, signed(signer, struct, deadline)
    )


async def revoke(market: Marketplace, signer: Payer = ALICE) -> SpendKey | Refusal:
    struct = eip712.hash_revoke_spend_key(ALICE.account_id, KEY_ID, NOW_S + 60)
    return await market.accounts.revoke_spend_key(ALICE.account_id, KEY_ID, signed(signer, struct))


async def test_a_registered_key_pays_until_it_is_revoked(market: Marketplace) -> None:
    await market.fund(ALICE, 1_000, NEWS)
    key = await register(market)
    assert isinstance(key, SpendKey)
    assert await register(market) == key
    payments = [ALICE.payment(number, 100, ceiling=1_000, key=key) for number in (1, 2)]
    assert isinstance((await market.batcher.charge(payments[:1]))[0], Accepted)
    revoked = await revoke(market)
    assert isinstance(revoked, SpendKey)
    assert (revoked.revoked, revoked.spent) == (True, 100)
    assert reason_of((await market.batcher.charge(payments[1:]))[0]) is Reason.SPEND_KEY_REVOKED
    assert await revoke(market) == revoked


async def test_a_key_is_registered_and_revoked_by_the_accounts_own_payer_only(market: Marketplace) -> None:
    assert reason_of(await register(market)) is Reason.ACCOUNT_UNKNOWN
    await market.fund(ALICE, 1_000)
    assert reason_of(await register(market, signer=MALLORY)) is Reason.CALL_SIGNATURE
    # What is signed is the hash of the secret: whoever relays the call cannot put in one of its own.
    assert reason_of(await register(market, secret=sha256(b"another").digest())) is Reason.CALL_SIGNATURE
    assert not market.account(ALICE).takes_spend_proofs_only
    assert isinstance(await register(market), SpendKey)
    assert reason_of(await revoke(market, signer=MALLORY)) is Reason.CALL_SIGNATURE


async def test_a_key_id_stands_for_one_key_and_keys_are_limited() -> None:
    async with marketplace(rules=Rules(spend_keys_per_account_max=1)) as market:
        await market.fund(ALICE, 1_000)
        assert reason_of(await revoke(market)) is Reason.SPEND_KEY_UNKNOWN
        assert isinstance(await register(market), SpendKey)
        assert reason_of(await register(market, cap=499)) is Reason.SPEND_KEY_CONFLICT
        assert reason_of(await register(market, key_id=bytes(32))) is Reason.SPEND_KEY_LIMIT


# Approvals.


async def offered(market: Marketplace) -> Totals:
    totals = market.accounts.totals_to_approve(ALICE.account_id, read_call())
    assert not isinstance(totals, Refusal)
    return totals


async def approve(market: Marketplace, totals: Totals, signer: Payer = ALICE) -> Refusal | None:
    digest = eip712.digest(DOMAIN, eip712.hash_totals_approval(ALICE.account_id, totals))
    return await market.accounts.approve_totals(ALICE.account_id, totals, signer.signer.sign(digest))


async def test_what_is_charged_and_not_claimed_is_offered_and_kept_when_approved(market: Marketplace) -> None:
    await market.fund(ALICE, 1_000, NEWS, MUSIC)
    assert await offered(market) == ()
    await market.charge(ALICE, 30, ceiling=30, number=1)
    await market.charge(ALICE, 50, ceiling=50, number=2, receiver=MUSIC)
    totals = await offered(market)
    assert totals == ((MUSIC, 50), (NEWS, 30))
    assert await approve(market, totals) is None
    approval = market.account(ALICE).approval
    assert approval is not None
    assert approval.totals == totals


async def test_after_a_claim_the_next_approval_names_only_what_is_owed_again(market: Marketplace) -> None:
    await market.fund(ALICE, 1_000, NEWS, MUSIC)
    await market.charge(ALICE, 30, ceiling=30, number=1)
    await market.charge(ALICE, 50, ceiling=50, number=2, receiver=MUSIC)
    assert await approve(market, await offered(market)) is None
    market.chain.paid.update({ALICE.channel_id(NEWS): 30, ALICE.channel_id(MUSIC): 50})
    market.chain.escrowed[ALICE.account_id].balance -= 80
    await market.chain.look()
    await market.charge(ALICE, 5, ceiling=35, number=3)
    totals = await offered(market)
    assert totals == ((NEWS, 35),)
    assert await approve(market, totals) is None


async def test_an_approval_that_is_too_high_doubled_unknown_lower_or_anothers_is_refused(market: Marketplace) -> None:
    assert reason_of(await approve(market, ((NEWS, 30),))) is Reason.ACCOUNT_UNKNOWN
    await market.fund(ALICE, 1_000, NEWS)
    await market.charge(ALICE, 30, ceiling=30)
    assert reason_of(await approve(market, ((NEWS, 31),))) is Reason.AMOUNT_MISMATCH
    assert reason_of(await approve(market, ((NEWS, 30), (NEWS, 30)))) is Reason.PAYLOAD_INVALID
    assert reason_of(await approve(market, ((MUSIC, 1),))) is Reason.CHANNEL_UNKNOWN
    assert reason_of(await approve(market, ())) is Reason.PAYLOAD_INVALID
    assert reason_of(await approve(market, ((NEWS, 30),), signer=MALLORY)) is Reason.CALL_SIGNATURE
    assert await approve(market, ((NEWS, 30),)) is None
    assert reason_of(await approve(market, ((NEWS, 29),))) is Reason.AMOUNT_MISMATCH
