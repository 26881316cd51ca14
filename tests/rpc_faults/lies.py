"""False answers that an aggregator acts on: each a rule that lies once, and only where there is something to lie about.

What they are about is named by its owner: an escrow's address, ids of accounts and channels, which may be collections
that grow. An answer about anything else, or one that would be true anyway, is passed on and does not use the rule up.
"""

import secrets
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, Final

from rpc_faults.rules import UNCHANGED, Ask, Change, Falsify, Question, Rule
from rpc_faults.views import asked_items, called, told_items, view_answer
from tallystick.hexadecimal import to_hex
from tallystick_aggregator.chain.escrow_calls import ACCOUNTS, CLAIMED, selector, topic
from tallystick_contracts import load

_WORD: Final = 32
_WITHDRAWAL: Final = ("withdrawAmount", "withdrawableAt", "withdrawByPayer")
"""Of IEscrow.AccountState, as far as it has them: all that tells of a pending withdrawal."""
_LOGS: Final = frozenset({"eth_getLogs"})
_CALL: Final = frozenset({"eth_call"})
_RECEIPT: Final = frozenset({"eth_getTransactionReceipt"})
_BLOCK: Final = frozenset({"eth_getBlockByNumber"})


def empty_logs(accounts: Collection[bytes], *, event: str = "") -> Rule:
    """No events at all, where there are some of these accounts; with `event`, only where one of this name is there."""
    wanted = to_hex(event_topic(event)) if event else ""

    async def change(_question: Question, truth: Any, _ask: Ask) -> Any:
        ours = [log for log in truth if len(log["topics"]) > 1 and bytes.fromhex(log["topics"][1][2:]) in accounts]
        if wanted:
            ours = [log for log in ours if log["topics"][0] == wanted]
        return [] if ours else UNCHANGED

    return Rule("empty logs", Falsify(change), _LOGS, times=1)


def inflated_balance(escrow: bytes, accounts: Collection[bytes], more: int) -> Rule:
    """One of these accounts holds so much more than it does, in atomic units."""

    def change(words: list[int]) -> list[int]:
        words[_account_fields().index("balance")] += more
        return words

    return Rule("inflated balance", Falsify(_in_view(escrow, ACCOUNTS, accounts, change)), _CALL, times=1)


def hidden_withdrawal(escrow: bytes, accounts: Collection[bytes]) -> Rule:
    """The state of one of these accounts without its pending withdrawal, as a back end that lags would tell it."""

    def change(words: list[int]) -> list[int]:
        return [0 if name in _WITHDRAWAL else word for name, word in zip(_account_fields(), words, strict=True)]

    return Rule("hidden withdrawal", Falsify(_in_view(escrow, ACCOUNTS, accounts, change)), _CALL, times=1)


def inflated_claimed(escrow: bytes, channels: Collection[bytes], more: int) -> Rule:
    """One of these channels was paid so much more than it was, in atomic units."""

    def change(words: list[int]) -> list[int]:
        return [words[0] + more]

    return Rule("inflated claimed", Falsify(_in_view(escrow, CLAIMED, channels, change)), _CALL, times=1)


def made_up_receipt(*, drop: bool = True) -> Rule:
    """A transaction that no block has is in the newest one and succeeded. With `drop` the node's pool loses it, too."""

    async def change(question: Question, truth: Any, ask: Ask) -> Any:
        if truth is not None:
            return UNCHANGED
        transaction_hash = question.params[0]
        pooled = await ask("eth_getTransactionByHash", transaction_hash)
        if pooled is None or pooled["blockHash"] is not None:
            return UNCHANGED
        if drop:
            await ask("anvil_dropTransaction", transaction_hash)
        return _receipt(pooled, await ask("eth_getBlockByNumber", "latest", False))

    return Rule("made-up receipt", Falsify(change), _RECEIPT, times=1)


def failed_receipt() -> Rule:
    """A transaction that succeeded is said to have reverted."""

    async def change(_question: Question, truth: Any, _ask: Ask) -> Any:
        if truth is None or truth["status"] != "0x1":
            return UNCHANGED
        return truth | {"status": "0x0", "logs": []}

    return Rule("failed receipt", Falsify(change), _RECEIPT, times=1)


def head_far_ahead(blocks: int = 10_000) -> Rule:
    """A newest block that nobody has mined, so far ahead of the true one."""

    async def change(_question: Question, truth: Any, _ask: Ask) -> Any:
        return truth | {"number": hex(int(truth["number"], 16) + blocks), "hash": _any_hash()}

    return Rule("head far ahead", Falsify(change), _BLOCK, _asks_for_the_head, times=1)


def forked_head() -> Rule:
    """A newest block of the right number, but of another chain."""

    async def change(_question: Question, truth: Any, _ask: Ask) -> Any:
        return truth | {"hash": _any_hash(), "parentHash": _any_hash()}

    return Rule("forked head", Falsify(change), _BLOCK, _asks_for_the_head, times=1)


def event_topic(name: str) -> bytes:
    """The first topic of this event of the escrow."""
    (event,) = (entry for entry in load("Escrow").abi if entry["type"] == "event" and entry["name"] == name)
    return topic(f"{name}({','.join(part['type'] for part in event['inputs'])})")


def for_ever(rule: Rule) -> Rule:
    """The same lie, again and again."""
    rule.times = None
    return rule


@cache
def _account_fields() -> tuple[str, ...]:
    """The fields of what `accounts` returns for each, one word each."""
    (function,) = (entry for entry in load("Escrow").abi if entry.get("name") == "accounts")
    return tuple(part["name"] for part in function["outputs"][0]["components"])


def _asks_for_the_head(question: Question) -> bool:
    return bool(question.params) and question.params[0] == "latest"


def _in_view(
    escrow: bytes, function: str, about: Collection[bytes], change: Callable[[list[int]], list[int]]
) -> Change:
    """Change the words that a view of the escrow returns for the first of the items about which there is a lie."""
    begin = selector(function)

    async def changed(question: Question, truth: Any, _ask: Ask) -> Any:
        to, data = called(question)
        if to != escrow or data[:4] != begin or truth == "0x":
            return UNCHANGED
        items, true = asked_items(data), told_items(data, truth)
        for number, item in enumerate(items):
            if item in about and (said := change(list(true[number]))) != true[number]:
                return view_answer([*true[:number], said, *true[number + 1 :]])
        return UNCHANGED

    return changed


def _receipt(transaction: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
    """What a node answers for a transaction that succeeded in this block."""
    return {
        "transactionHash": transaction["hash"],
        "transactionIndex": "0x0",
        "blockHash": block["hash"],
        "blockNumber": block["number"],
        "from": transaction["from"],
        "to": transaction["to"],
        "contractAddress": None,
        "status": "0x1",
        "type": transaction["type"],
        "gasUsed": "0x11170",
        "cumulativeGasUsed": "0x11170",
        "effectiveGasPrice": transaction["maxFeePerGas"],
        "logs": [],
        "logsBloom": "0x" + "00" * 256,
    }


def _any_hash() -> str:
    return "0x" + secrets.token_hex(_WORD)
