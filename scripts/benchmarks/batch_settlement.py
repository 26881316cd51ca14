"""Channels of x402's batch-settlement, claimed and paid out on a local chain by the aggregator's own settlement.

Planner, outbox, sender and collector are those of production; the contract is a stand-in of ours with the standard's
interface, so its gas is not the original's. Two rounds: the first claim of every channel, then the steady state. Anvil
refuses transactions above EIP-7825's limit.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from _anvil import DEV_KEYS, GAS_MAX, Anvil, hexed
from _arguments import add_json_option
from _figures import table, write
from benchmarks.gas_world import seller
from benchmarks.measure import commit, machine
from tallystick import eip712
from tallystick.channels import ChannelConfig, channel_id
from tallystick.eip712 import Domain
from tallystick.payment_ids import new_payment_id
from tallystick.signatures import Signer
from tallystick.vouchers import sign_voucher
from tallystick.x402.batch_settlement import Erc3009Deposit
from tallystick_aggregator.chain.batch_settlement_calls import deposit_call
from tallystick_aggregator.chain.batch_settlement_escrow import BatchSettlementEscrow
from tallystick_aggregator.chain.chain import EvmChain
from tallystick_aggregator.chain.network import EvmNetwork
from tallystick_aggregator.chain.settings import ChainSettings, TokenSettings
from tallystick_aggregator.charging.writer import LedgerWriter, system_clock_ms
from tallystick_aggregator.claims.collecting import CHECK_S, Collecting
from tallystick_aggregator.claims.service import ClaimService, SettlementSettings
from tallystick_aggregator.ledger import accounts, decide
from tallystick_aggregator.ledger.answers import Accepted, Refusal
from tallystick_aggregator.ledger.commands import DecisionContext, ProvenPayment, Rules, WatermarkProof
from tallystick_aggregator.ledger.draft import Draft
from tallystick_aggregator.ledger.state import Ledger
from tallystick_aggregator.store.memory import MemoryDisk, MemoryJournal, MemoryOutbox
from tallystick_contracts import load
from tallystick_contracts.artifact import ContractName

CHAIN_ID: Final = 31337
NETWORK: Final = f"eip155:{CHAIN_ID}"
ESCROW: Final = eip712.BATCH_SETTLEMENT_ADDRESS
DOMAIN: Final = eip712.batch_settlement_domain(CHAIN_ID)
CONTRACTS: Final[dict[bytes, ContractName]] = {
    ESCROW: "TestBatchSettlement",
    eip712.ERC3009_DEPOSIT_COLLECTOR_ADDRESS: "TestERC3009DepositCollector",
    eip712.PERMIT2_DEPOSIT_COLLECTOR_ADDRESS: "TestPermit2DepositCollector",
}
OPERATOR: Final = Signer(DEV_KEYS[1])
"""The receiverAuthorizer of all channels."""
SENDER: Final = Signer(DEV_KEYS[2])
DELAY_S: Final = 86_400
DEPOSIT: Final = 10**9
CHARGE: Final = 1_000
TIMEOUT_S: Final = 300.0
RULES: Final = Rules()
NEVER: Final = SettlementSettings(interval_s=10**9, mirror_wait_s=TIMEOUT_S)
"""Settled when asked to, not on a timer."""


@dataclass(frozen=True)
class Channel:
    """A payer's channel."""

    payer: Signer
    config: ChannelConfig
    id: bytes


class World:
    """A chain with funded channels, and the aggregator's side of it."""

    def __init__(self, anvil: Anvil, chain: EvmChain, writer: LedgerWriter, outbox: MemoryOutbox, token: bytes) -> None:
        """Nothing is deposited yet."""
        self._anvil, self._chain, self._writer, self._token = anvil, chain, writer, token
        self._settlement = ClaimService(chain, writer, outbox, NEVER)
        self._now = time.time()
        self._collecting = Collecting(chain, writer, outbox, clock=lambda: self._now)
        self.channels: list[Channel] = []

    async def close(self) -> None:
        """Settle no more."""
        await self._settlement.stop()

    async def fund(self, channels: int, sellers: int) -> None:
        """Deposit on every channel, at anybody's cost, and open them in the ledger."""
        self.channels = [self._channel(number, seller(number % sellers)) for number in range(channels)]
        await asyncio.to_thread(self._deposit)
        await self._mirrored()
        for channel in self.channels:

            def decision(
                draft: Draft, _ledger: Ledger, _moment: DecisionContext, channel: Channel = channel
            ) -> Refusal | None:
                return accounts.open_channel(draft, channel.id, channel.id, channel.config.receiver, 0, RULES)

            refused = await self._writer.run(decision)
            assert refused is None, refused
            self._chain.track(channel.config)
        self._anvil.mine()
        await self._mirrored()

    async def charge(self, total: int) -> None:
        """Charge every channel so that this much was charged on it in all."""
        for number, channel in enumerate(self.channels):
            voucher = sign_voucher(channel.payer, DOMAIN, channel.id, total)
            payment_id = new_payment_id(system_clock_ms(), sha256(b"%d %d" % (number, total)).digest()[:10])
            proof = WatermarkProof(total, voucher)
            payment = ProvenPayment(channel.id, payment_id, CHARGE, bytes(32), proof)

            def decision(
                draft: Draft, _ledger: Ledger, moment: DecisionContext, payment: ProvenPayment = payment
            ) -> Accepted | Refusal:
                return decide.charge(draft, payment, moment, RULES)

            accepted = await self._writer.run(decision)
            assert isinstance(accepted, Accepted), accepted

    async def settle(self, sellers: int) -> dict[str, Any]:
        """Claim everything, then pay it out; what the transactions took, and how long it was."""
        first = self._anvil.block_number + 1
        start = time.perf_counter()
        claims = await self._settlement.settle_now(timeout_s=TIMEOUT_S)
        claimed_s = time.perf_counter() - start
        assert not claims.left_out, claims.left_out
        await self._mirrored()
        receivers = {channel.config.receiver for channel in self.channels}
        async with asyncio.timeout(TIMEOUT_S):
            while not await asyncio.to_thread(self._paid, receivers):
                self._now += CHECK_S  # one check a minute, without the minute
                await self._collecting.check()
        elapsed_s = time.perf_counter() - start
        receipts = self._receipts(first)
        claim_hashes = {hexed(claim.transaction_hash) for claim in claims}
        gas = {True: 0, False: 0}
        for receipt in receipts:
            gas[receipt["transactionHash"] in claim_hashes] += int(receipt["gasUsed"], 16)
        rows = len(self.channels)
        assert sum(claim.rows for claim in claims) == rows
        assert len(receipts) == len(claims) + sellers, "each seller is paid once"
        return {
            "claims": len(claims),
            "settles": len(receipts) - len(claims),
            "claim_gas_per_row": gas[True] / rows,
            "gas_per_row": sum(gas.values()) / rows,
            "gas_limit_max": max(self._gas_limit(receipt["transactionHash"]) for receipt in receipts),
            "calldata_bytes_max": max(len(claim.data) for claim in claims),
            "claimed_s": claimed_s,
            "elapsed_s": elapsed_s,
        }

    def _channel(self, number: int, to: bytes) -> Channel:
        payer = Signer(sha256(b"tallystick benchmark batch payer %d" % number).digest())
        config = ChannelConfig(
            payer=payer.address,
            payer_authorizer=payer.address,
            receiver=to,
            receiver_authorizer=OPERATOR.address,
            token=self._token,
            withdraw_delay_s=DELAY_S,
            salt=bytes(32),
        )
        return Channel(payer, config, channel_id(DOMAIN, config))

    def _deposit(self) -> None:
        domain = Domain("USD Coin", "2", CHAIN_ID, self._token)
        for number, channel in enumerate(self.channels):
            self._anvil.mint(self._token, channel.payer.address, DEPOSIT)
            unsigned = Erc3009Deposit(0, 2**48, sha256(b"salt %d" % number).digest(), b"")
            digest = eip712.digest(domain, unsigned.struct_hash(channel.config, channel.id, DEPOSIT))
            signed = replace(unsigned, signature=channel.payer.sign(digest))
            self._anvil.send(SENDER.address, ESCROW, deposit_call(channel.config, DEPOSIT, signed))

    def _paid(self, receivers: set[bytes]) -> bool:
        """Whether all sellers have what was claimed for them."""
        return sum(self._anvil.token_balance(self._token, to) for to in receivers) == self._claimed()

    def _claimed(self) -> int:
        return sum(self._writer.ledger.known_channel(channel.id).claimed for channel in self.channels)

    def _receipts(self, first: int) -> list[dict[str, Any]]:
        """Those of the transactions to the contract since a block."""
        blocks = range(first, self._anvil.block_number + 1)
        found = [one for number in blocks for one in self._anvil.rpc("eth_getBlockReceipts", hex(number))]
        assert all(receipt["status"] == "0x1" for receipt in found), "nothing reverted"
        return [receipt for receipt in found if receipt["to"] == hexed(ESCROW)]

    def _gas_limit(self, transaction_hash: str) -> int:
        return int(self._anvil.rpc("eth_getTransactionByHash", transaction_hash)["gas"], 16)

    async def _mirrored(self) -> None:
        await self._chain.mirrored((await self._chain.head()).number, TIMEOUT_S)


@contextlib.asynccontextmanager
async def world(anvil: Anvil) -> AsyncIterator[World]:
    """The contracts at their canonical addresses, a token, and a chain side that runs, with its books in memory."""
    for address, name in CONTRACTS.items():
        anvil.rpc("anvil_setCode", hexed(address), hexed(load(name).deployed_bytecode))
    token = anvil.deploy_contract("TestUSDC")
    settings = ChainSettings(
        network=NETWORK,
        rpc_urls=(anvil.url,),
        escrow=ESCROW,
        operator=OPERATOR.address,
        operator_signer=OPERATOR,
        sender=SENDER,
        tokens=(TokenSettings(token, "USDC", 6, "USD Coin", "2", min_deposit=1),),
        escrow_block=0,
        confirmations=0,
        poll_s=0.05,
    )
    disk = MemoryDisk()
    journal, outbox = MemoryJournal(disk), MemoryOutbox(disk)
    writer = LedgerWriter(await journal.load(), journal)
    serving = asyncio.create_task(writer.serve())
    chain = EvmChain(
        settings,
        outbox,
        writer,
        network=EvmNetwork(settings, outbox),
        bind=lambda node: BatchSettlementEscrow(node, CHAIN_ID, OPERATOR.address, OPERATOR, DELAY_S),
    )
    try:
        await chain.start()
        made = World(anvil, chain, writer, outbox, token)
        try:
            yield made
        finally:
            await made.close()
    finally:
        await chain.stop()
        writer.stop()
        await serving


async def measure(channels: int, sellers: int) -> dict[str, Any]:
    """All figures, as the JSON file has them."""
    with Anvil() as anvil:
        async with world(anvil) as made:
            await made.fund(channels, sellers)
            rounds = []
            for name, total in (("first claim", CHARGE), ("steady state", 2 * CHARGE)):
                await made.charge(total)
                rounds.append({"round": name, **await made.settle(sellers)})
    return {
        "channels": channels,
        "sellers": sellers,
        "contract": "stand-in",
        "transaction_gas_max": GAS_MAX,
        "rounds": rounds,
        "machine": machine(),
        "commit": commit(),
    }


def rendered(result: dict[str, Any]) -> str:
    """The rounds as a table."""
    rows = [("round", "claims", "settles", "gas a row", "of it claim", "largest gas limit", "largest bytes", "s")]
    for one in result["rounds"]:
        figures = ("claims", "settles", "gas_per_row", "claim_gas_per_row", "gas_limit_max", "calldata_bytes_max")
        rows.append((one["round"], *(f"{one[name]:,.0f}" for name in figures), f"{one['elapsed_s']:.1f}"))
    most = max(one["gas_limit_max"] for one in result["rounds"])
    missed = "" if most <= result["transaction_gas_max"] else ": MISSED"
    about = f"{result['channels']:,} channels of {result['sellers']:,} sellers. Gas is the stand-in contract's."
    return "\n\n".join((about, table(rows), f"largest gas limit: {most:,}, at most {GAS_MAX:,}{missed}"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="scripts/bench batch-settlement", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--quick", action="store_true", help="few channels: shows that it works")
    options = parser.parse_args(arguments)
    result = asyncio.run(measure(*((30, 3) if options.quick else (1_000, 20))))
    print(rendered(result))
    write(options.json, result)
