"""Random histories of an escrow on Anvil, done to its Python model at the same time.

A `World` has a few payers, operators, sellers and tokens, so that they meet. `step` draws an operation (or one from the
past once more, by a stranger), sends it, and says what came of it on both sides.
"""

import http.client
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any, Final, NamedTuple

from eth_abi.abi import encode

from _anvil import DEV_KEYS, Anvil, function, hexed
from escrow_model import AMOUNT_MAX, TOKEN_REFUSED, ZERO, Config, EscrowModel, RevertedError, TokenModel
from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.hashing import keccak256
from tallystick.signatures import ORDER, Signer
from tallystick_contracts import load
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch, ClaimRow
from tallystick_contracts.claim_batch import encode as encode_batch
from tallystick_contracts.events import Event, decode

CHAIN_ID: Final = 31337
CONFIG_TYPE: Final = "(address,address,address,address,address,uint40,bytes32)"
GAS: Final = 10_000_000
START_S: Final = 1_900_000_000
FORTUNE: Final = 2**200


class RawLog(NamedTuple):
    """An event as the node gives it."""

    topics: tuple[bytes, ...]
    data: bytes


class Outcome(NamedTuple):
    """What a step came to: events, or an error with its arguments as integers."""

    events: tuple[Event, ...]
    error: str = ""
    words: tuple[int, ...] = ()


class Step(NamedTuple):
    """A call that can be sent by anyone at any time, and what it does to the model."""

    name: str
    data: bytes
    act: Callable[[EscrowModel, bytes, int], list[Event]]


class Views(NamedTuple):
    """Everything that the contract and its tokens show of the world's accounts, channels and people."""

    accounts: dict[bytes, tuple[int, ...]]
    claimed: dict[bytes, int]
    owed: dict[tuple[bytes, bytes], int]
    senders: set[tuple[bytes, bytes]]
    balances: dict[tuple[bytes, bytes], int]


def signer(name: str) -> Signer:
    """Somebody's key."""
    return Signer(sha256(name.encode()).digest())


@dataclass
class World:
    """An escrow, its model, and everybody who uses it."""

    anvil: Anvil
    escrow: bytes
    tokens: tuple[bytes, ...]
    operators: tuple[Signer, ...]
    random: Random
    now_s: int = START_S
    past: list[Step] = field(default_factory=list[Step])

    def __post_init__(self) -> None:
        self.payers = [signer(f"payer {i}") for i in range(3)]
        self.session, self.stranger = signer("session key"), signer("stranger")
        self.sellers = [sha256(f"seller {i}".encode()).digest()[:20] for i in range(4)]
        self.first_block = self.anvil.block_number + 1
        models = {token: TokenModel(token, Domain("USD Coin", "2", CHAIN_ID, token)) for token in self.tokens}
        self.model = EscrowModel(self.escrow, eip712.escrow_domain(CHAIN_ID, self.escrow), models)
        self.keys = {one.address: one for one in (*self.payers, *self.operators, self.session, self.stranger)}
        self.configs = self._configs()
        self.anvil.rpc("anvil_autoImpersonateAccount", True)
        self._connection = http.client.HTTPConnection("127.0.0.1", self.anvil.port, timeout=60)
        for person in self.keys:
            self.anvil.set_ether(person, 10**24)
        for payer in self.payers:
            for token, model in models.items():
                self.anvil.send(payer.address, token, function("mint(address,uint256)", payer.address, FORTUNE))
                self.anvil.send(payer.address, token, function("approve(address,uint256)", self.escrow, 2**256 - 1))
                model.balances[payer.address] = FORTUNE

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    @property
    def receivers(self) -> tuple[bytes, ...]:
        """Whom rows may name: sellers, somebody who is a payer too, and those who may never be paid."""
        return (*self.sellers, self.payers[0].address, ZERO, self.escrow, self.tokens[0])

    def _configs(self) -> tuple[Config, ...]:
        """Accounts; the last cannot be deposited to, for one reason each."""
        one, two, three = (payer.address for payer in self.payers)
        main, other = self.operators[0].address, self.operators[-1].address
        token, last = self.tokens[0], self.tokens[-1]
        salt = sha256(b"salt").digest()
        good = Config(one, one, ZERO, main, token, 900, bytes(32))
        return (
            good,
            good._replace(salt=salt),
            good._replace(payer=two, payer_authorizer=two, withdraw_delay_s=86_400),
            good._replace(payer=two, payer_authorizer=self.session.address, token=last),
            good._replace(payer=three, payer_authorizer=self.session.address, operator=other),
            good._replace(payer=three, payer_authorizer=three, token=last, withdraw_delay_s=30 * 86_400),
            good._replace(withdraw_delay_s=899),
            good._replace(withdraw_delay_s=30 * 86_400 + 1),
            good._replace(payer_authorizer=ZERO),
            good._replace(operator=ZERO),
            good._replace(payer=ZERO),
            good._replace(token=self.sellers[0]),
        )

    # Doing a step on both sides.

    def step(self) -> tuple[Step, Outcome, Outcome]:
        """Draw a step and do it: what the contract did, and what the model says it has to do."""
        random = self.random
        self.now_s += random.choices([1, 30, 900, 86_400, 2_600_000], [8, 3, 3, 2, 1])[0]
        if self.past and random.random() < 0.15:
            step = random.choice(self.past)
            caller = random.choice([self.stranger, *self.keys.values()]).address
        else:
            caller, step = random.choices(*zip(*self.draws(), strict=True))[0]()
            self.past.append(step)
        return step, self.send(caller, step.data), self.expect(caller, step)

    def expect(self, caller: bytes, step: Step) -> Outcome:
        """What the model does."""
        result = self.model.attempt(lambda model: step.act(model, caller, self.now_s))
        return Outcome((), result.name, result.words) if isinstance(result, RevertedError) else Outcome(tuple(result))

    def send(self, caller: bytes, data: bytes, to: bytes | None = None) -> Outcome:
        """What the contract does, in a block at this very second."""
        self.anvil.rpc("evm_setNextBlockTimestamp", self.now_s)
        call = {"from": hexed(caller), "to": hexed(to or self.escrow), "data": hexed(data), "gas": hex(GAS)}
        sent = self.anvil.rpc("eth_sendTransaction", call)
        receipt = None
        while receipt is None:
            receipt = self.anvil.rpc("eth_getTransactionReceipt", sent)
        if receipt["status"] != "0x1":
            trace = self.anvil.rpc("debug_traceTransaction", sent, {"tracer": "callTracer"})
            return _error(unhexed(trace.get("output", "0x")))
        return Outcome(tuple(decode(log) for log in _raw(receipt["logs"], self.escrow)))

    def logs(self) -> list[RawLog]:
        """All events of the escrow since the world began."""
        query = {"address": hexed(self.escrow), "fromBlock": hex(self.first_block), "toBlock": "latest"}
        return _raw(self.anvil.rpc("eth_getLogs", query), self.escrow)

    # Looking at both sides.

    def views(self) -> Views:
        """What the contract and the tokens show now."""
        accounts, channels, people = self.account_ids, self.channel_ids, self.people
        debts = [(to, token) for to in people for token in self.tokens]
        pairs = [(operator, sender) for operator in self.keys for sender in self.keys]
        answers = self._calls(
            [
                (self.escrow, function("accounts(bytes32[])", 32, len(accounts), *accounts)),
                (self.escrow, function("claimed(bytes32[])", 32, len(channels), *channels)),
                *((self.escrow, function("owed(address,address)", *debt)) for debt in debts),
                *((self.escrow, function("isSender(address,address)", *pair)) for pair in pairs),
                *((token, function("balanceOf(address)", to)) for to, token in debts),
            ]
        )
        states, claimed = words(answers[0])[2:], words(answers[1])[2:]
        numbers = [words(answer)[0] for answer in answers[2:]]
        owed, allowed = numbers[: len(debts)], numbers[len(debts) : len(debts) + len(pairs)]
        return Views(
            {one: tuple(states[at * 8 : at * 8 + 8]) for at, one in enumerate(accounts)},
            dict(zip(channels, claimed, strict=True)),
            {debt: amount for debt, amount in zip(debts, owed, strict=True) if amount},
            {pair for pair, yes in zip(pairs, allowed, strict=True) if yes},
            dict(zip(debts, numbers[len(debts) + len(pairs) :], strict=True)),
        )

    def model_views(self) -> Views:
        """What the model says that they show."""
        model = self.model
        accounts = {one: model.account(one) for one in self.account_ids}
        debts = [(to, token) for to in self.people for token in self.tokens]
        return Views(
            {
                one: (
                    a.opened,
                    a.balance,
                    a.refund_nonce,
                    a.withdraw_nonce,
                    a.authorizer_nonce,
                    a.withdraw_amount,
                    a.withdrawable_at,
                    a.withdraw_by_payer,
                )
                for one, a in accounts.items()
            },
            {one: model.claimed.get(one, 0) for one in self.channel_ids},
            dict(model.owed),
            set(model.senders),
            {(to, token): model.tokens[token].balances.get(to, 0) for to, token in debts},
        )

    @property
    def account_ids(self) -> list[bytes]:
        return [self.model.account_id(config) for config in self.configs]

    @property
    def channel_ids(self) -> list[bytes]:
        return [self.model.channel_id(config, to) for config in self.configs for to in self.receivers if to != ZERO]

    @property
    def people(self) -> list[bytes]:
        return list(dict.fromkeys([*self.keys, *self.sellers, self.escrow]))

    # Drawing. Each returns who calls, and the step.

    def draws(self) -> list[tuple[Callable[[], tuple[bytes, Step]], int]]:
        """What can happen, and how often."""
        return [
            (self.draw_deposit, 8),
            (self.draw_deposit_with_authorization, 10),
            (self.draw_claim, 26),
            (self.draw_claim_with_signature, 8),
            (self.draw_set_sender, 3),
            (self.draw_collect, 6),
            (self.draw_initiate_withdraw, 7),
            (self.draw_initiate_withdraw_with_signature, 6),
            (self.draw_cancel_withdraw, 3),
            (self.draw_cancel_withdraw_with_signature, 3),
            (self.draw_finalize_withdraw, 8),
            (self.draw_refund, 9),
        ]

    def meddle(self) -> None:
        """What happens to the token behind everybody's back: blacklisting, and a gift to the escrow."""
        random = self.random
        token = random.choice(self.tokens)
        model = self.model.tokens[token]
        if random.random() < 0.2:
            giver = random.choice(self.payers).address
            assert not self.send(giver, function("transfer(address,uint256)", self.escrow, 1), token).error or (
                giver in model.blacklist
            )
            model.move(giver, self.escrow, 1)
            return
        listed = sorted(model.blacklist)
        verb = "unBlacklist" if listed and random.random() < 0.7 else "blacklist"
        people = listed if verb == "unBlacklist" else [*self.sellers, *(payer.address for payer in self.payers)]
        person = random.choice(people)
        assert not self.send(self.stranger.address, function(f"{verb}(address)", person), token).error
        (model.blacklist.discard if verb == "unBlacklist" else model.blacklist.add)(person)

    def draw_deposit(self) -> tuple[bytes, Step]:
        config, amount = self._any_config(), self._amount()
        data = self._data(f"deposit({CONFIG_TYPE},uint128)", self._noisy(config), amount)
        caller = self.random.choice(self.payers).address
        return caller, Step("deposit", data, lambda model, by, _now_s: model.deposit(by, config, amount))

    def draw_deposit_with_authorization(self) -> tuple[bytes, Step]:
        random, config, amount = self.random, self._any_config(), self._amount()
        after_s = self.now_s + random.choice([-100, -100, -100, 0, 1_000])
        before_s = self.now_s + random.choice([100, 100_000, 100_000, 0])
        salt = bytes(31) + bytes([random.randrange(40)])
        nonce = eip712.deposit_nonce(self.model.account_id(config), salt)
        struct = eip712.hash_receive_with_authorization(config.payer, self.escrow, amount, after_s, before_s, nonce)
        domain = Domain("USD Coin", "2", CHAIN_ID, config.token)
        signature = self._sign(config.payer, eip712.digest(domain, struct))
        values = (amount, after_s, before_s, salt, signature)
        data = self._data(
            f"depositWithAuthorization({CONFIG_TYPE},uint128,uint256,uint256,bytes32,bytes)",
            self._noisy(config),
            *values,
        )
        return self.stranger.address, Step(
            "depositWithAuthorization",
            data,
            lambda model, _by, now_s: model.deposit_with_authorization(config, *values, now_s=now_s),
        )

    def draw_claim(self) -> tuple[bytes, Step]:
        batch = self._batch()
        data = self._data("claim(bytes)", encode_batch(batch))
        senders = [sender for operator, sender in self.model.senders if operator == batch.operator]
        caller = self.random.choice([batch.operator, batch.operator, *senders, self.stranger.address])
        return caller, Step("claim", data, lambda model, by, _now_s: model.claim(by, batch))

    def draw_claim_with_signature(self) -> tuple[bytes, Step]:
        batch = self._batch()
        signature = self._sign(batch.operator, self.model.batch_digest(batch))
        data = self._data("claimWithSignature(bytes,bytes)", encode_batch(batch), signature)
        return self.stranger.address, Step(
            "claimWithSignature", data, lambda model, _by, _now_s: model.claim_with_signature(batch, signature)
        )

    def draw_set_sender(self) -> tuple[bytes, Step]:
        operator = self.random.choice(self.operators).address
        sender = self.random.choice([self.session, *self.payers]).address
        allowed = self.random.random() < 0.6
        data = function("setSender(address,bool)", sender, int(allowed))
        return operator, Step("setSender", data, lambda model, by, _now_s: model.set_sender(by, sender, allowed))

    def draw_collect(self) -> tuple[bytes, Step]:
        some = [(self.sellers[0], self.tokens[0]), (self.payers[0].address, self.tokens[-1])]
        to, token = self.random.choice([*self.model.owed, *self.model.owed, *some])
        data = function("collect(address,address)", to, token)
        return self.stranger.address, Step("collect", data, lambda model, _by, _now_s: model.collect(to, token))

    def draw_initiate_withdraw(self) -> tuple[bytes, Step]:
        config, amount = self._config(), self._withdrawn()
        data = self._data(f"initiateWithdraw({CONFIG_TYPE},uint128)", self._noisy(config), amount)
        return self._payer_of(config), Step(
            "initiateWithdraw", data, lambda model, by, now_s: model.initiate_withdraw(by, config, amount, now_s)
        )

    def draw_initiate_withdraw_with_signature(self) -> tuple[bytes, Step]:
        config, amount = self._config(), self._withdrawn()
        nonce, deadline_s, signature = self._withdraw_signature(config, amount)
        data = self._data(
            f"initiateWithdrawWithSignature({CONFIG_TYPE},uint128,uint256,uint256,bytes)",
            self._noisy(config),
            *(amount, nonce, deadline_s, signature),
        )
        return self.stranger.address, Step(
            "initiateWithdrawWithSignature",
            data,
            lambda model, _by, now_s: model.initiate_withdraw_with_signature(
                config, amount, nonce, deadline_s, signature, now_s
            ),
        )

    def draw_cancel_withdraw(self) -> tuple[bytes, Step]:
        config = self._config()
        data = self._data(f"cancelWithdraw({CONFIG_TYPE})", self._noisy(config))
        return self._payer_of(config), Step(
            "cancelWithdraw", data, lambda model, by, _now_s: model.cancel_withdraw(by, config)
        )

    def draw_cancel_withdraw_with_signature(self) -> tuple[bytes, Step]:
        config = self._config()
        nonce, deadline_s, signature = self._withdraw_signature(config, 0)
        data = self._data(
            f"cancelWithdrawWithSignature({CONFIG_TYPE},uint256,uint256,bytes)",
            self._noisy(config),
            *(nonce, deadline_s, signature),
        )
        return self.stranger.address, Step(
            "cancelWithdrawWithSignature",
            data,
            lambda model, _by, now_s: model.cancel_withdraw_with_signature(config, nonce, deadline_s, signature, now_s),
        )

    def draw_finalize_withdraw(self) -> tuple[bytes, Step]:
        config = self._config()
        data = self._data(f"finalizeWithdraw({CONFIG_TYPE})", self._noisy(config))
        return self.stranger.address, Step(
            "finalizeWithdraw", data, lambda model, _by, now_s: model.finalize_withdraw(config, now_s)
        )

    def draw_refund(self) -> tuple[bytes, Step]:
        random, config = self.random, self._config()
        account_id = self.model.account_id(config)
        nonce = self.model.account(account_id).refund_nonce + random.choice([0, 0, 0, 0, 1, 2])
        amount = random.choices([random.randrange(1, 40), 0, AMOUNT_MAX], [12, 2, 1])[0]
        signature = self._sign(config.operator, self.model.refund_digest(account_id, nonce, amount))
        data = self._data(
            f"refundWithSignature({CONFIG_TYPE},uint128,uint256,bytes)", self._noisy(config), amount, nonce, signature
        )
        return self.stranger.address, Step(
            "refundWithSignature",
            data,
            lambda model, _by, _now_s: model.refund_with_signature(config, amount, nonce, signature),
        )

    # Parts of what is drawn.

    def _any_config(self) -> Config:
        return self.random.choice([self._config(), self._config(), self._config(), self.random.choice(self.configs)])

    def _config(self) -> Config:
        return self.random.choice(self.configs[:6])

    def _noisy(self, config: Config) -> Config:
        """The same account; a receiver that is named makes no difference."""
        return config._replace(receiver=self.random.choice([ZERO, self.sellers[0]]))

    def _amount(self) -> int:
        return self.random.choices([self.random.randrange(1, 500), 0, AMOUNT_MAX], [40, 1, 1])[0]

    def _withdrawn(self) -> int:
        return self.random.choices([self.random.randrange(1, 60), 0, AMOUNT_MAX], [20, 1, 10])[0]

    def _payer_of(self, config: Config) -> bytes:
        return self.random.choices([config.payer, config.payer_authorizer, self.stranger.address], [4, 4, 1])[0]

    def _batch(self) -> ClaimBatch:
        random, config = self.random, self._config()
        fellows = [c for c in self.configs[:6] if (c.operator, c.token) == (config.operator, config.token)]
        accounts = [self._account_claim(random.choice([config, *fellows])) for _ in range(random.randrange(1, 4))]
        return ClaimBatch(config.operator, config.token, tuple(accounts))

    def _account_claim(self, config: Config) -> AccountClaim:
        random = self.random
        wanted = [(to, self._total(config, to)) for to in random.choices(self.receivers[:4], k=random.randrange(5))]
        if random.random() < 0.3:
            wanted.append((random.choice(self.receivers), 5))
        if random.random() < 0.5:
            rows = tuple(ClaimRow(to, total, total, None) for to, total in wanted)
            digest = self.model.approval_digest(self.model.account_id(config), wanted)
            approval = self._sign(config.payer_authorizer, digest)
            return AccountClaim(
                config.payer, config.payer_authorizer, config.withdraw_delay_s, config.salt, rows, approval
            )
        vouchers = tuple(self._voucher_row(config, to, total) for to, total in wanted)
        return AccountClaim(config.payer, config.payer_authorizer, config.withdraw_delay_s, config.salt, vouchers)

    def _voucher_row(self, config: Config, to: bytes, total: int) -> ClaimRow:
        random = self.random
        ceiling = random.choice([total, total, min(total + 20, AMOUNT_MAX), max(total - 1, 0)])
        signed_to, signed = random.choices([(to, ceiling), (to, ceiling + 1), (self.sellers[0], ceiling)], [12, 1, 1])[
            0
        ]
        digest = self.model.voucher_digest(self.model.channel_id(config, signed_to), min(signed, AMOUNT_MAX))
        return ClaimRow(to, total, ceiling, self._sign(config.payer_authorizer, digest))

    def _total(self, config: Config, to: bytes) -> int:
        claimed = self.model.claimed.get(self.model.channel_id(config, to), 0)
        wanted = [min(claimed + self.random.randrange(25), AMOUNT_MAX), max(0, claimed - 1), AMOUNT_MAX]
        return self.random.choices(wanted, [40, 3, 1])[0]

    def _withdraw_signature(self, config: Config, amount: int) -> tuple[int, int, bytes]:
        random = self.random
        account_id = self.model.account_id(config)
        key = random.choice([config.payer, config.payer_authorizer])
        nonce = self.model.account(account_id).nonce_of(key == config.payer) + random.choice([0, 0, 0, 0, 1])
        deadline_s = self.now_s + random.choice([0, 100, 10_000_000, 10_000_000, -1])
        digest = self.model.withdraw_digest(account_id, amount, nonce, deadline_s)
        return nonce, deadline_s, self._sign(key, digest)

    def _sign(self, who: bytes, digest: bytes) -> bytes:
        """The signature that is needed, mostly; sometimes another's, or one that no key has made."""
        key = self.keys.get(who, self.stranger)
        forged = sha256(digest).digest() + bytes(31) + b"\x07" + b"\x1b"
        other = self.random.choice([self.stranger.sign(digest), forged, ORDER.to_bytes(32, "big") + forged[32:]])
        return self.random.choices([key.sign(digest), other], [14, 1])[0]

    def _data(self, signature: str, *values: Any) -> bytes:
        types = _argument_types(signature)
        return keccak256(signature.encode())[:4] + encode(types, values)

    def _calls(self, calls: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Many eth_calls at the newest block in one request."""
        requests = [
            {
                "jsonrpc": "2.0",
                "id": at,
                "method": "eth_call",
                "params": [{"to": hexed(to), "data": hexed(data)}, "latest"],
            }
            for at, (to, data) in enumerate(calls)
        ]
        self._connection.request("POST", "/", json.dumps(requests), {"Content-Type": "application/json"})
        answers = json.loads(self._connection.getresponse().read())
        return [unhexed(answer["result"]) for answer in sorted(answers, key=lambda answer: int(answer["id"]))]


def new_world(anvil: Anvil, seed: int) -> World:
    """A fresh escrow with two tokens on this chain."""
    escrow = anvil.deploy_contract("Escrow")
    tokens = anvil.deploy_contract("TestUSDC"), anvil.deploy_contract("TestUSDC")
    now_s = max(START_S, int(anvil.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)) + 1_000
    operators = Signer(DEV_KEYS[1]), Signer(DEV_KEYS[2])
    return World(anvil, escrow, tokens, operators, Random(seed), now_s)


def words(data: bytes) -> list[int]:
    """32 bytes each, as integers."""
    return [int.from_bytes(data[at : at + 32], "big") for at in range(0, len(data), 32)]


def unhexed(text: str) -> bytes:
    """What JSON-RPC wrote as hex."""
    return bytes.fromhex(text[2:])


def _raw(logs: Sequence[dict[str, Any]], address: bytes) -> list[RawLog]:
    return [
        RawLog(tuple(unhexed(topic) for topic in log["topics"]), unhexed(log["data"]))
        for log in logs
        if unhexed(log["address"]) == address
    ]


def _argument_types(signature: str) -> list[str]:
    inner = signature[signature.index("(") + 1 : -1]
    if inner.startswith("("):
        end = inner.index(")") + 1
        return [inner[:end], *inner[end + 1 :].split(",")] if inner[end:] else [inner]
    return inner.split(",")


def _errors() -> dict[bytes, str]:
    found = {keccak256(b"Panic(uint256)")[:4]: "Panic"}
    for entry in load("Escrow").abi:
        if entry["type"] == "error":
            signature = f"{entry['name']}({','.join(argument['type'] for argument in entry['inputs'])})"
            found[keccak256(signature.encode())[:4]] = entry["name"]
    return found


_ERRORS: Final = _errors()


def _error(output: bytes) -> Outcome:
    name = _ERRORS.get(output[:4])
    return Outcome((), name, tuple(words(output[4:]))) if name else Outcome((), TOKEN_REFUSED)
