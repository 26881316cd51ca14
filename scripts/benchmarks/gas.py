"""Gas of settlements, deposits, refunds and exact transfers on a local chain, sellers' payouts included.

Whole transactions are measured: intrinsic gas, calldata, refunds and all. Claims are in steady state: every account,
channel and seller has been paid before.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from eth_abi.abi import encode

from _anvil import Anvil
from _arguments import add_json_option
from _figures import table, write
from benchmarks.gas_world import DELAY_S, DEPOSIT, FOR_EVER, Cost, GasWorld, payer, seller
from tallystick import eip712
from tallystick.channels import account_id
from tallystick_aggregator.chain.escrow_calls import CONFIG_TYPE, selector

SHAPES: Final = ((1, 1), (100, 1), (10, 10), (100, 10), (10, 100), (50, 50), (1, 1_000))
"""Payers x sellers."""
QUICK_SHAPES: Final = ((1, 1), (3, 10))
TENTH: Final = 0.1
FIRST_TOTAL: Final = 1_000_000
SECOND_TOTAL: Final = 2_345_678
THIRD_TOTAL: Final = 3_456_789

_BY: Final = ("voucher", "approval")

CANONICAL_ROW_GAS: Final = 21_414
"""x402BatchSettlement: a claim of 100 rows in the authorizer's own transaction, per row."""
CANONICAL_SWEEP_GAS: Final = 46_252
"""x402BatchSettlement: the sweep that pays one seller."""
CANONICAL_ROW_BYTES: Final = 480
CANONICAL: Final = {
    "deposit_with_authorization": 116_742,
    "deposit_with_authorization_top_up": 95_786,
    "refund": 84_626,
    "exact": 65_101,
}
"""The same on the canonical contract, and for `exact` on the minimal token itself; measured once, elsewhere."""


class Row(NamedTuple):
    """A settlement, per row that it claims."""

    payers: int
    sellers: int
    by: str
    changed: float
    token: str
    gas_per_row: float
    calldata_bytes_per_row: float
    transactions: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="scripts/bench gas", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--quick", action="store_true", help="small shapes only: shows that it works")
    options = parser.parse_args(arguments)
    result = measure(QUICK_SHAPES if options.quick else SHAPES)
    print(rendered(result))
    write(options.json, result)


def measure(shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """All figures, as the JSON file has them; those that stand alone are of the minimal token."""
    rows: list[Row] = []
    with Anvil() as anvil:
        for proxied in (False, True):
            for payers, sellers in shapes:
                for by_approval in (False, True):
                    rows += settlements(GasWorld(anvil, proxied), payers, sellers, by_approval=by_approval)
        single, single_proxied = operations(GasWorld(anvil, proxied=False)), operations(GasWorld(anvil, proxied=True))
    return {
        "rows": [row._asdict() for row in rows],
        **{name: cost.gas for name, cost in single.items()},
        "proxied": {name: cost.gas for name, cost in single_proxied.items()},
        "calldata_bytes": {name: cost.calldata_bytes for name, cost in single.items()},
    }


def settlements(world: GasWorld, payers: int, sellers: int, *, by_approval: bool) -> Iterator[Row]:
    """All channels claimed once to reach the steady state, then once more, then a tenth of each payer's channels."""
    people, receivers = [payer(n) for n in range(payers)], [seller(n) for n in range(sellers)]
    for one in people:
        world.fund(one)

    def settle(total: int, share: float) -> Row:
        count = round(sellers * share)
        # Another part of the sellers for each payer, as chance would have it.
        totals = [
            (one, [(receivers[(n * count + i) % sellers], total) for i in range(count)]) for n, one in enumerate(people)
        ]
        before = sum(map(world.balance, receivers))
        moved = sum(total - world.claimed_by(one, to) for one, wanted in totals for to, _ in wanted)
        cost, transactions = world.settle(totals, by_approval=by_approval)
        assert sum(map(world.balance, receivers)) - before == moved, "sellers got what was claimed"
        by, token = "approval" if by_approval else "voucher", "proxied" if world.proxied else "minimal"
        row_count = payers * count
        return Row(
            payers,
            sellers,
            by,
            share,
            token,
            round(cost.gas / row_count, 1),
            round(cost.calldata_bytes / row_count, 1),
            transactions,
        )

    settle(FIRST_TOTAL, 1.0)
    yield settle(SECOND_TOTAL, 1.0)
    if sellers * TENTH >= 1:
        yield settle(THIRD_TOTAL, TENTH)


def operations(world: GasWorld) -> dict[str, Cost]:
    """What happens outside of settlements, one transaction each."""
    one, to, relayer = payer(0), seller(0), world.operator.address
    config, amount = world.config(one), 10**9
    world.mint(one.address, DEPOSIT)
    world.mint(to, 1)
    id_ = account_id(world.domain, config)

    def deposit(salt: bytes) -> Cost:
        nonce = eip712.deposit_nonce(id_, salt)
        struct = eip712.hash_receive_with_authorization(one.address, world.escrow, amount, 0, FOR_EVER, nonce)
        signature = one.sign(world.token_digest(struct))
        function = f"depositWithAuthorization({CONFIG_TYPE},uint128,uint256,uint256,bytes32,bytes)"
        return world.call(
            relayer,
            function,
            config,
            amount,
            0,
            FOR_EVER,
            salt,
            signature,
        )

    costs = {
        "deposit_with_authorization": deposit(b"\x01" * 32),
        "deposit_with_authorization_top_up": deposit(b"\x02" * 32),
    }
    refund = eip712.digest(world.domain, eip712.hash_refund(id_, 0, amount // 4))
    costs["refund"] = world.call(
        relayer,
        f"refundWithSignature({CONFIG_TYPE},uint128,uint256,bytes)",
        config,
        *(amount // 4, 0, world.operator.sign(refund)),
    )
    withdraw = eip712.digest(world.domain, eip712.hash_withdraw(id_, amount, 0, FOR_EVER))
    costs["initiate_withdraw_with_signature"] = world.call(
        relayer,
        f"initiateWithdrawWithSignature({CONFIG_TYPE},uint128,uint256,uint256,bytes)",
        config,
        *(amount, 0, FOR_EVER, one.sign(withdraw)),
    )
    world.anvil.advance(DELAY_S)
    costs["finalize_withdraw"] = world.call(relayer, f"finalizeWithdraw({CONFIG_TYPE})", config)
    costs["exact"] = exact(world, amount)
    assert world.balance(to) == amount + 1, "the seller was paid"
    assert world.balance(one.address) == DEPOSIT - (2 * amount - amount // 4 - amount) - amount, "the payer got back"
    return costs


def exact(world: GasWorld, amount: int) -> Cost:
    """One ERC-3009 transfer from the payer to a seller who has some of the token already."""
    one, to, nonce = payer(0), seller(0), b"\x03" * 32
    struct = eip712.hash_transfer_with_authorization(one.address, to, amount, 0, FOR_EVER, nonce)
    signature = one.sign(world.token_digest(struct))
    types = ["address", "address", "uint256", "uint256", "uint256", "bytes32", "uint8", "bytes32", "bytes32"]
    values = [one.address, to, amount, 0, FOR_EVER, nonce, signature[64], signature[:32], signature[32:64]]
    data = selector(f"transferWithAuthorization({','.join(types)})") + encode(types, values)
    return world.send(world.operator.address, world.token, data)


def canonical_row_gas(payers: int, sellers: int, changed: float) -> float:
    """What a row of the same settlement costs on the canonical contract, its sweeps included, at best."""
    rows = payers * round(sellers * changed)
    paid = min(sellers, rows)
    return CANONICAL_ROW_GAS + CANONICAL_SWEEP_GAS * paid / rows


def rendered(result: dict[str, Any]) -> str:
    """The figures as tables, beside those of the canonical contract."""
    by_case: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        case = row["payers"], row["sellers"], row["changed"], row["token"]
        by_case.setdefault(case, {})[row["by"]] = row
    settled = [("payers x sellers", "changed", "token", *_BY, "canonical", *(f"bytes, {by}" for by in _BY), "sent in")]
    for (payers, sellers, changed, token), by in by_case.items():
        both = [by[name] for name in _BY]
        settled.append(
            (
                f"{payers} x {sellers}",
                f"{changed:.0%}",
                token,
                *(f"{row['gas_per_row']:,.0f}" for row in both),
                f"{canonical_row_gas(payers, sellers, changed):,.0f}",
                *(f"{row['calldata_bytes_per_row']:.0f}" for row in both),
                " / ".join(str(row["transactions"]) for row in both),
            )
        )
    single = [("one transaction", "minimal", "proxied", "canonical", "bytes")]
    for name, gas in result["proxied"].items():
        canonical = f"{CANONICAL[name]:,}" if name in CANONICAL else "-"
        size = str(result["calldata_bytes"][name])
        single.append((name.replace("_", " "), f"{result[name]:,}", f"{gas:,}", canonical, size))
    about = (
        "Gas per row of a settlement, sellers' payouts included. Canonical: x402BatchSettlement, minimal token,\n"
        f"{CANONICAL_ROW_BYTES} bytes of calldata a row. Sent in: transactions by voucher / by approval."
    )
    return "\n\n".join((about, table(settled), table(single)))
