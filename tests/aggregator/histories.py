"""Random histories of the ledger: what a hypothesis test draws, and how it is done to a ledger.

A history is a list of commits, each a list of commands; `do` decides one command in a draft. Commands are small, frozen
and independent of each other, so that they shrink well; those that make no sense where they come are refused or do
nothing, which is part of what is tested. The payers, sellers, keys and payment ids are few, so that they meet.

    @given(histories())
    def test_something(history):
        ledger = Ledger()
        for commit in history:
            draft = Draft(ledger)
            for command in commit:
                answer = do(command, draft, ledger, NOW)
            draft.adopt()
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from hypothesis import strategies as st

from tallystick.channels import ChannelConfig
from tallystick.payment_ids import new_payment_id
from tallystick.quantities import ZERO_ADDRESS, AccountId
from tallystick.vouchers import Voucher
from tallystick_aggregator.ledger import accounts, approvals, decide
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.commands import DecisionContext, ProvenPayment, Rules, SpendProof, VoucherProof
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger, SpendKey, payment_key, reservation_handle
from tallystick_aggregator.ledger.values import EscrowRef

NOW_MS: Final = 1_800_000_000_000
NOW: Final = DecisionContext(NOW_MS)
RULES: Final = Rules(payment_id_retention_s=3_600, payment_id_skew_s=60, reservations_per_account_max=4)
ESCROW_REF: Final = EscrowRef("eip155:31337", bytes.fromhex("e5" * 20))

ACCOUNTS: Final = 2
RECEIVERS: Final = 2
KEYS: Final = 3
KEY_TTLS_S: Final = (9_000, 9_000, 1)
"""How long after now each spend key expires, by its number."""
PAYMENT_AGES_S: Final = (-30, 0, 0, 0, 20, 20, 600, 3_000)
"""How long before now each payment id was made, by its number."""


@dataclass(frozen=True, slots=True)
class Open:
    """Open an account, or one of its channels with a baseline."""

    account: int
    receiver: int
    claimed: int


@dataclass(frozen=True, slots=True)
class Mirror:
    """The chain says so of an account."""

    account: int
    balance: int
    claimed: tuple[int, ...]
    withdrawing: int


@dataclass(frozen=True, slots=True)
class Pay:
    """A payment by voucher, or by spend key if `key` says which; at once, or reserved."""

    account: int
    receiver: int
    payment: int
    amount: int
    ceiling: int
    key: int | None
    reserve: bool


@dataclass(frozen=True, slots=True)
class Settle:
    """What becomes of a reservation: `amount` captured, in step or not, or released, or expired."""

    account: int
    receiver: int
    payment: int
    outcome: str
    amount: int


@dataclass(frozen=True, slots=True)
class Key:
    """Register or revoke a spend key."""

    account: int
    key: int
    cap: int
    revoke: bool


@dataclass(frozen=True, slots=True)
class Refund:
    """Start a refund, or end it."""

    account: int
    number: int
    amount: int
    end: bool


@dataclass(frozen=True, slots=True)
class Approve:
    """Approve an account's totals as they are, and something on top."""

    account: int
    more: int


@dataclass(frozen=True, slots=True)
class Attest:
    """A claim is to be journaled: up to what is charged, and earlier ones up to so many under way or not."""

    account: int
    receiver: int
    before: int


@dataclass(frozen=True, slots=True)
class Advance:
    """A block was taken in."""

    network: int
    number: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Payment ids older than this are pruned; below zero: all of them."""

    age_s: int


Command = Open | Mirror | Pay | Settle | Key | Refund | Approve | Attest | Advance | Forget
History = Sequence[Sequence[Command]]

_account = st.integers(0, ACCOUNTS - 1)
_receiver = st.integers(0, RECEIVERS - 1)
_payment = st.integers(0, len(PAYMENT_AGES_S) - 1)
_amount = st.integers(0, 40)


def commands() -> st.SearchStrategy[Command]:
    """One command; payments and what becomes of them are most of it."""
    pay = st.builds(
        Pay,
        _account,
        _receiver,
        _payment,
        _amount,
        st.integers(1, 2_000) | st.integers(2**64, 2**128 - 1),
        st.none() | st.integers(0, KEYS - 1),
        st.booleans(),
    )
    outcomes = st.sampled_from(["capture", "capture", "step", "release", "expire"])
    settle = st.builds(Settle, _account, _receiver, _payment, outcomes, _amount)
    return st.one_of(
        pay,
        pay,
        pay,
        settle,
        settle,
        st.builds(Open, _account, _receiver, st.sampled_from([0, 0, 7])),
        st.builds(
            Mirror,
            _account,
            st.integers(0, 4_000),
            st.lists(st.integers(0, 60), min_size=RECEIVERS, max_size=RECEIVERS).map(tuple),
            st.sampled_from([0, 0, 0, 100]),
        ),
        st.builds(Key, _account, st.integers(0, KEYS - 1), st.integers(50, 500), st.sampled_from([False, False, True])),
        st.builds(Refund, _account, st.integers(0, 2), st.integers(0, 100), st.booleans()),
        st.builds(Approve, _account, st.integers(0, 3)),
        st.builds(Attest, _account, _receiver, st.integers(0, 60)),
        st.builds(Advance, st.integers(0, 1), st.integers(0, 100)),
        st.builds(Forget, st.sampled_from([4_000, 1_000, 300, -100])),
    )


def histories(commits_max: int = 25, commands_max: int = 6) -> st.SearchStrategy[list[list[Command]]]:
    """Whole histories: the accounts are opened and funded at the beginning, so that there is something to spend."""
    commit = st.lists(commands(), min_size=1, max_size=commands_max)
    return st.lists(commit, max_size=commits_max).map(lambda commits: [list(BEGINNING), *_aimed(commits)])


def _aimed(commits: list[list[Command]]) -> list[list[Command]]:
    """Let every `Settle` mean a reservation that was asked for before it, if there is one."""
    asked: list[Pay] = []
    for commit in commits:
        for position, command in enumerate(commit):
            if isinstance(command, Pay) and command.reserve:
                asked.append(command)
            elif isinstance(command, Settle) and asked:
                meant = asked[command.payment % len(asked)]
                commit[position] = replace(
                    command, account=meant.account, receiver=meant.receiver, payment=meant.payment
                )
    return commits


BEGINNING: Final[tuple[Command, ...]] = (
    *(Open(account, receiver, 0) for account in range(ACCOUNTS) for receiver in range(RECEIVERS)),
    *(Mirror(account, 3_000, (0,) * RECEIVERS, 0) for account in range(ACCOUNTS)),
    Key(1, 0, 400, revoke=False),
)
"""Account 0 pays by voucher at first, account 1 by spend key."""


def do(command: Command, draft: Draft, ledger: Ledger, moment: DecisionContext) -> object:
    """Decide one command in the draft; return the answer, as it is now."""
    answer = _do(command, draft, ledger, moment)
    return answer.copy() if isinstance(answer, SpendKey) else answer


def _do(command: Command, draft: Draft, ledger: Ledger, moment: DecisionContext) -> object:
    match command:
        case Open(account, receiver, claimed):
            accounts.open_account(draft, account_id(account), ESCROW_REF, config(account))
            return accounts.open_channel(
                draft,
                account_id(account),
                channel_id(account, receiver),
                _address("receiver", receiver),
                claimed,
                RULES,
            )
        case Mirror():
            return _mirror(command, draft, ledger)
        case Pay():
            return _pay(command, draft, moment)
        case Settle():
            return _settle(command, draft, moment)
        case Key(account, key, cap, revoke):
            if revoke:
                return accounts.revoke_spend_key(draft, account_id(account), key_id(account, key))
            wanted = SpendKey(
                account_id(account), key_id(account, key), _hash("secret", key), cap, moment.now_s + KEY_TTLS_S[key]
            )
            return accounts.register_spend_key(draft, account_id(account), wanted, moment, RULES)
        case Refund(account, number, amount, end):
            if end:
                return accounts.end_refund(draft, account_id(account), _hash("refund", number))
            return accounts.start_refund(draft, account_id(account), _hash("refund", number), number, amount, moment)
        case Approve(account, more):
            return _approve(account, more, draft, ledger)
        case Attest(account, receiver, before):
            return _attest(channel_id(account, receiver), before, draft)
        case Advance(network, number):
            return draft.record(
                ev.ChainAdvanced(EscrowRef(f"eip155:{network}", ESCROW_REF.address), number, _hash("block", number))
            )
        case Forget(age_s):
            before_ms = max(draft.payments_forgotten_ms, moment.now_ms - age_s * 1_000)
            return draft.record(ev.PaymentsForgotten(before_ms))


def lookup(command: Command) -> tuple[bytes, bytes] | None:
    """The (channel id, payment id) that deciding this command looks up, if it does."""
    if isinstance(command, Pay | Settle):
        return channel_id(command.account, command.receiver), payment_id(command.payment)
    return None


def same_state(one: Ledger, other: Ledger) -> bool:
    """Whether two ledgers know the same, whatever the order in which they were told, payments in memory aside."""
    return (
        one.accounts == other.accounts
        and one.channels == other.channels
        and one.spend_keys == other.spend_keys
        and one.reservations == other.reservations
        and one.heads == other.heads
        and one.payments_forgotten_ms == other.payments_forgotten_ms
        and {name: set(ids) for name, ids in one.channel_ids.items()}
        == {name: set(ids) for name, ids in other.channel_ids.items()}
        and {name: set(ids) for name, ids in one.spend_key_names.items()}
        == {name: set(ids) for name, ids in other.spend_key_names.items()}
        and _exposed(one) == _exposed(other)
    )


def account_id(account: int) -> AccountId:
    """The id of the account with this number."""
    return AccountId(_hash("account", account))


def channel_id(account: int, receiver: int) -> bytes:
    """The id of the channel between these."""
    return _hash("channel", account, receiver)


def key_id(account: int, key: int) -> bytes:
    """The id of an account's spend key."""
    return _hash("key", account, key)


def payment_id(payment: int) -> bytes:
    """The payment id with this number."""
    return new_payment_id(payment_ms(payment), _hash("payment", payment)[:10])


def payment_ms(payment: int) -> int:
    """The time in the payment id with this number."""
    return NOW_MS - PAYMENT_AGES_S[payment] * 1_000


def config(account: int) -> ChannelConfig:
    """What names the account with this number."""
    payer, token = _address("payer", account), _address("token", account)
    return ChannelConfig(payer, payer, ZERO_ADDRESS, _address("operator", 0), token, 86_400, _hash("salt", account))


def _mirror(command: Mirror, draft: Draft, ledger: Ledger) -> object:
    account = draft.account(account_id(command.account))
    if account is None:
        return None
    paid = {
        channel_id(command.account, receiver): claimed
        for receiver, claimed in enumerate(command.claimed)
        if draft.channel(channel_id(command.account, receiver)) is not None
    }
    at = accounts.AccountAtBlock(command.balance, paid)
    finalizes_at = NOW.now_s + 90_000 if command.withdrawing else 0
    seen = accounts.AccountOnChain(account.id, at, at, command.withdrawing, finalizes_at)
    return accounts.mirror(draft, ledger, seen)


def _attest(channel_id: bytes, before: int, draft: Draft) -> None:
    channel = draft.channel(channel_id)
    if channel is not None and channel.charged > max(channel.claimed, before):
        before = max(channel.claimed, before)
        accounts.attest_charges(draft, channel_id, channel.charged, before, channel.to_attest(before))


def _pay(command: Pay, draft: Draft, moment: DecisionContext) -> object:
    channel = channel_id(command.account, command.receiver)
    voucher = Voucher(channel, command.ceiling, _hash("signature", command.ceiling) * 2 + b"\x1b")
    proof: VoucherProof | SpendProof = VoucherProof(voucher.max_claimable_amount, voucher)
    if command.key is not None:
        proof = SpendProof(key_id(command.account, command.key), 30, voucher)
    payment = ProvenPayment(channel, payment_id(command.payment), command.amount, _hash("request"), proof)
    if command.reserve:
        return decide.reserve(draft, payment, _handle(command), moment, RULES)
    return decide.charge(draft, payment, moment, RULES)


def _settle(command: Settle, draft: Draft, moment: DecisionContext) -> object:
    handle = _handle(command)
    if command.outcome in {"capture", "step"}:
        return decide.capture(draft, handle, command.amount, moment, RULES, in_step=command.outcome == "step")
    if command.outcome == "release":
        return decide.release(draft, handle)
    held = draft.reservation(handle)
    if held is not None and held.expires_at:
        decide.expire(draft, held)
    return None


def _approve(account: int, more: int, draft: Draft, ledger: Ledger) -> object:
    known = draft.account(account_id(account))
    if known is None:
        return None
    totals = tuple(
        (channel.receiver, channel.charged + more)
        for channel in sorted(ledger.channels_of(known.id), key=lambda channel: channel.id)
    )
    return approvals.approve_totals(draft, ledger, known.id, totals, _hash("approval", more) * 2 + b"\x1b")


def _handle(command: Pay | Settle) -> bytes:
    payment = payment_id(command.payment)
    return reservation_handle(channel_id(command.account, command.receiver), payment, _hash("handle", payment)[:16])


def _address(kind: str, number: int) -> bytes:
    return _hash(kind, number)[:20]


def _hash(*words: object) -> bytes:
    return sha256(repr(words).encode()).digest()


def _exposed(ledger: Ledger) -> dict[bytes, int]:
    """Nothing exposed is as good as no entry."""
    return {key: amount for key, amount in ledger.receiver_exposure.items() if amount}


def key_of(command: Pay | Settle) -> bytes:
    """The key under which the command's payment is filed."""
    return payment_key(channel_id(command.account, command.receiver), payment_id(command.payment))
