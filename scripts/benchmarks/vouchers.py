"""Vouchers that Tallystick manages as a facilitator, beside the official package's server, which manages its own.

A pair is /verify, which holds the channel, and /settle, which charges it; both are on disk before they are answered.
The official server keeps its channels in memory and nothing durable; its facilitator is a stub in its process that is
never asked, since its channels' state is fresh, and its page is a handler of one line. Each pays from as many channels,
one request under way on each, in rounds that take turns: of a machine that others use the ratio within a round counts.
"""

import asyncio
import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from _anvil import DEV_KEYS, Anvil, hexed
from _children import Child, Children
from _figures import table
from _site import Site
from benchmarks.batch_settlement import CONTRACTS
from benchmarks.measure import cpu_s
from benchmarks.voucher_requests import RECEIVER, Payer
from tallystick import eip712
from tallystick.eip712 import Domain
from tallystick.signatures import Signer
from tallystick.x402.batch_settlement import Erc3009Deposit
from tallystick_aggregator.chain.batch_settlement_calls import deposit_call
from tallystick_contracts import load

OFFICIAL: Final = "official"
OURS: Final = "tallystick"
DEPOSIT: Final = 10**12
PREPARE_TIMEOUT_S: Final = 300.0
EXTRA_S: Final = 60.0
AT_LEAST: Final = 3.0
"""Pairs a second for each paid request a second of the official server."""


class Sizes(NamedTuple):
    """How much is measured. `requests`: signed for each channel beforehand, by whose they are."""

    channels: int
    rounds: int
    warm_up_s: float
    duration_s: float
    requests: dict[str, int]


FULL: Final = Sizes(64, 5, 1.5, 8.0, {OFFICIAL: 1_500, OURS: 4_000})
QUICK: Final = Sizes(8, 2, 0.3, 1.0, {OFFICIAL: 800, OURS: 3_000})


class Side(NamedTuple):
    """A server and those who buy from it."""

    server: Child
    load: Child


async def measure(sizes: Sizes) -> dict[str, Any]:
    """All rounds, and the medians of what they tell."""
    with tempfile.TemporaryDirectory(prefix="tallystick-bench-") as folder, Anvil() as anvil:
        async with Children(Path(folder)) as children:
            sides = {
                OFFICIAL: await _official(children, sizes),
                OURS: await _ours(Site(Path(folder), anvil, children), anvil, children, sizes),
            }
            rounds = []
            for number in range(sizes.rounds):
                order = sides if number % 2 == 0 else reversed(sides)
                rounds.append({name: await _round(name, sides[name], sizes) for name in order})
    return figures(rounds) | {"channels": sizes.channels, "duration_s": sizes.duration_s, "rounds": rounds}


def figures(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians: of the ratio within each round, and of each side's processor time for what was paid once."""
    cost = {name: median(one[name]["server_cpu_us"] for one in rounds) for name in (OFFICIAL, OURS)}
    return {
        "ratio": median(one[OURS]["per_s"] / one[OFFICIAL]["per_s"] for one in rounds),
        "cpu_ratio": median(one[OFFICIAL]["server_cpu_us"] / one[OURS]["server_cpu_us"] for one in rounds),
        "cpu_us": cost,
        "per_s": {name: median(one[name]["per_s"] for one in rounds) for name in cost},
    }


def rendered(result: dict[str, Any]) -> str:
    """Both, side by side, round by round."""
    rows = [["paid requests", "per second", "processor µs each", "p50 ms", "p99 ms"]]
    for number, one in enumerate(result["rounds"], 1):
        for name in (OFFICIAL, OURS):
            side = one[name]
            texts = [f"{side['per_s']:,.0f}", f"{side['server_cpu_us']:,.0f}"]
            texts += [f"{side['p50_ms']:,.1f}", f"{side['p99_ms']:,.1f}"]
            rows.append([f"{name}, round {number}", *texts])
    return table(rows)


async def _official(children: Children, sizes: Sizes) -> Side:
    server = await children.start_with("benchmarks.official", {"mode": "serve", "channels": sizes.channels})
    port = (await server.read(PREPARE_TIMEOUT_S))["port"]
    return Side(server, await _load(children, OFFICIAL, port, {}, sizes))


async def _ours(site: Site, anvil: Anvil, children: Children, sizes: Sizes) -> Side:
    for address, name in CONTRACTS.items():
        anvil.rpc("anvil_setCode", hexed(address), hexed(load(name).deployed_bytecode))
    await site.deploy(http=True)
    text = site.config.read_text()
    site.config.write_text(text.replace("\noperator_key", "\nbatch_settlement = true\noperator_key", 1))
    await site.serve()
    facilitator = {
        "chain_id": int(site.terms["network"].partition(":")[2]),
        "token": site.terms["tokens"][0]["token"],
        "authorizer": site.terms["operator"],
        "withdraw_delay_s": site.terms["withdraw_delay_s"],
        "bearer": await site.seller_token("bench", [RECEIVER], ["charge"]),
    }
    await asyncio.to_thread(_deposit, anvil, [Payer(number, facilitator) for number in range(sizes.channels)])
    port = int(site.facilitator.rpartition(":")[2])
    return Side(site.aggregator, await _load(children, OURS, port, facilitator, sizes))


def _deposit(anvil: Anvil, payers: list[Payer]) -> None:
    """Give every payer's channel its money, at anybody's cost."""
    somebody = Signer(DEV_KEYS[3]).address
    for payer in payers:
        token = payer.config.token
        anvil.mint(token, payer.signer.address, DEPOSIT)
        unsigned = Erc3009Deposit(0, 2**48, sha256(payer.id).digest(), b"")
        domain = Domain("USD Coin", "2", payer.domain.chain_id, token)
        signed = eip712.digest(domain, unsigned.struct_hash(payer.config, payer.id, DEPOSIT))
        deposit = replace(unsigned, signature=payer.signer.sign(signed))
        anvil.send(somebody, eip712.BATCH_SETTLEMENT_ADDRESS, deposit_call(payer.config, DEPOSIT, deposit))


async def _load(children: Children, name: str, port: int, facilitator: dict[str, Any], sizes: Sizes) -> Child:
    settings = {
        "port": port,
        "facilitator": facilitator,
        "channels": sizes.channels,
        "requests": sizes.requests[name],
    }
    child = await children.start_with("benchmarks.voucher_load", settings)
    await child.read(PREPARE_TIMEOUT_S)
    return child


async def _round(name: str, side: Side, sizes: Sizes) -> dict[str, Any]:
    before = cpu_s(side.server.pid)
    await side.load.tell({"warm_up_s": sizes.warm_up_s, "duration_s": sizes.duration_s})
    result = await side.load.read(sizes.warm_up_s + sizes.duration_s + EXTRA_S)
    result["server_cpu_us"] = (cpu_s(side.server.pid) - before) / max(1, result["paid_in_all"]) * 1e6
    print(
        f"{name} vouchers: {result['per_s']:,.0f}/s, {result['server_cpu_us']:,.0f} µs of processor time each",
        flush=True,
    )
    return result
