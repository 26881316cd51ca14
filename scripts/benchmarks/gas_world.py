"""A chain on which gas is measured: an escrow, a token, payers with deposits, and the transactions of a settlement.

What is claimed is planned and cut into transactions by the aggregator's own planner, so that a figure is what a
settlement costs, and not what a batch of a convenient size would.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from hashlib import sha256
from typing import Final

from eth_abi.abi import encode

from _anvil import DEV_KEYS, Anvil, function, hexed
from tallystick import eip712
from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.hashing import keccak256
from tallystick.quantities import ZERO_ADDRESS
from tallystick.signatures import Signer
from tallystick.vouchers import sign_voucher
from tallystick_aggregator.chain.claim_plan import Group, PlannedRow
from tallystick_aggregator.chain.deferred_escrow import CLAIM_COSTS as COSTS
from tallystick_aggregator.chain.deferred_escrow import account_claim
from tallystick_aggregator.chain.escrow_calls import CONFIG_TYPE, selector
from tallystick_aggregator.claims.planner import Batch, pack
from tallystick_aggregator.ledger.state import Account
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_chain.errors import RpcError
from tallystick_contracts.claim_batch import ClaimBatch
from tallystick_contracts.claim_batch import encode as encode_batch

CHAIN_ID: Final = 31337
TRANSACTION_GAS_MAX: Final = 16_777_216
"""EIP-7825's limit; Anvil enforces it here."""
TRANSACTION_BYTES_MAX: Final = 126_000
DELAY_S: Final = 86_400
FOR_EVER: Final = 2**48
DEPOSIT: Final = 10**15
HEADROOM: Final = 500_000
"""Ceilings are above totals, as they are while requests are in flight."""


@dataclass(frozen=True)
class Cost:
    """What transactions took: gas with everything in it, and bytes of calldata."""

    gas: int
    calldata_bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(self.gas + other.gas, self.calldata_bytes + other.calldata_bytes)


NOTHING: Final = Cost(0, 0)


@dataclass
class GasWorld:
    """An escrow and a token of their own on a running chain. The escrow has held the token before."""

    anvil: Anvil
    proxied: bool
    operator: Signer = field(default_factory=lambda: Signer(DEV_KEYS[1]))

    def __post_init__(self) -> None:
        """Deploy."""
        self.escrow = self.anvil.deploy_contract("Escrow")
        self.token = self.anvil.deploy_contract("MinimalToken")
        if self.proxied:
            self.token = self.anvil.deploy_contract("TokenProxy", self.token.rjust(32, b"\0"))
        self.domain = eip712.escrow_domain(CHAIN_ID, self.escrow)
        self._token_separator = self.anvil.call(self.token, function("DOMAIN_SEPARATOR()"))
        self.claimed: dict[bytes, int] = {}
        self.mint(self.escrow, 1)

    # People.

    def config(self, payer: Signer) -> ChannelConfig:
        """The account of a payer who signs for itself."""
        return ChannelConfig(
            payer=payer.address,
            payer_authorizer=payer.address,
            receiver=ZERO_ADDRESS,
            receiver_authorizer=self.operator.address,
            token=self.token,
            withdraw_delay_s=DELAY_S,
            salt=bytes(32),
        )

    def mint(self, holder: bytes, amount: int) -> None:
        """Give somebody tokens."""
        self.send(self.operator.address, self.token, function("mint(address,uint256)", holder, amount))

    def fund(self, payer: Signer) -> None:
        """Deposit for a payer, out of the operator's pocket: it is not measured."""
        self.mint(self.operator.address, DEPOSIT)
        self.send(self.operator.address, self.token, function("approve(address,uint256)", self.escrow, DEPOSIT))
        self.call(self.operator.address, f"deposit({CONFIG_TYPE},uint128)", self.config(payer), DEPOSIT)

    def balance(self, holder: bytes) -> int:
        """What somebody has of the token."""
        return self.anvil.token_balance(self.token, holder)

    def claimed_by(self, payer: Signer, receiver: bytes) -> int:
        """What a channel has claimed."""
        return self.claimed.get(channel_id(self.domain, self.config(payer).channel(receiver)), 0)

    # Transactions.

    def send(self, sender: bytes, to: bytes, data: bytes) -> Cost:
        """Send a transaction, and return what it took. Raises RpcError if it reverts."""
        self.anvil.rpc("anvil_impersonateAccount", hexed(sender))
        call = {"from": hexed(sender), "to": hexed(to), "data": hexed(data), "gas": hex(TRANSACTION_GAS_MAX)}
        sent = self.anvil.rpc("eth_sendTransaction", call)
        receipt = None
        while receipt is None:
            receipt = self.anvil.rpc("eth_getTransactionReceipt", sent)
        if receipt["status"] != "0x1":
            raise RpcError(3, f"a transaction of {len(data)} bytes reverted", b"")
        assert len(data) <= TRANSACTION_BYTES_MAX, f"{len(data)} bytes would not be relayed"
        return Cost(int(receipt["gasUsed"], 16), len(data))

    def call(self, sender: bytes, signature: str, config: ChannelConfig, *values: int | bytes) -> Cost:
        """Send a call of the escrow that begins with a configuration."""
        types = [CONFIG_TYPE, *signature[signature.index(CONFIG_TYPE) + len(CONFIG_TYPE) + 1 : -1].split(",")]
        arguments = [astuple(config), *values]
        return self.send(sender, self.escrow, selector(signature) + encode(types[: len(arguments)], arguments))

    def token_digest(self, struct_hash: bytes) -> bytes:
        """What is signed for the token."""
        return keccak256(b"\x19\x01" + self._token_separator + struct_hash)

    # Settlements.

    def settle(self, totals: "Totals", *, by_approval: bool) -> tuple[Cost, int]:
        """Claim these totals as the settler would; returns the cost and the number of transactions."""
        groups = self._groups_by_approval(totals) if by_approval else self._groups_by_voucher(totals)
        batches = pack(self.token, groups, COSTS)
        cost = NOTHING
        for batch in batches:
            cost += self._claim(batch)
        self.claimed.update({row.channel_id: row.total for group in groups for row in group.rows})
        return cost, len(batches)

    def _claim(self, batch: Batch) -> Cost:
        data = encode_batch(ClaimBatch(self.operator.address, self.token, tuple(map(account_claim, batch.groups))))
        return self.send(self.operator.address, self.escrow, selector("claim(bytes)") + encode(["bytes"], [data]))

    def _groups_by_voucher(self, totals: "Totals") -> list[Group]:
        return [
            Group(self._account(payer), tuple(self._rows(payer, wanted, headroom=HEADROOM)), None)
            for payer, wanted in totals
        ]

    def _groups_by_approval(self, totals: "Totals") -> list[Group]:
        groups = []
        for payer, wanted in totals:
            account = self._account(payer)
            for part in _approvals(wanted, first=not self.claimed):
                struct_hash = eip712.hash_totals_approval(account.id, part)
                signature = payer.sign(eip712.digest(self.domain, struct_hash))
                groups.append(Group(account, tuple(self._rows(payer, part, headroom=0)), signature))
        return groups

    def _rows(self, payer: Signer, wanted: "Wanted", *, headroom: int) -> Iterator[PlannedRow]:
        config = self.config(payer)
        for receiver, total in wanted:
            channel = channel_id(self.domain, config.channel(receiver))
            before = self.claimed.get(channel, 0)
            signature = sign_voucher(payer, self.domain, channel, total + headroom).signature if headroom else b""
            yield PlannedRow(channel, receiver, total, before, total + headroom, signature, before == 0)

    def _account(self, payer: Signer) -> Account:
        config = self.config(payer)
        return Account(account_id(self.domain, config), EscrowRef(f"eip155:{CHAIN_ID}", self.escrow), config)


Wanted = Sequence[tuple[bytes, int]]
"""Of one payer: (receiver, total to claim up to)."""
Totals = Sequence[tuple[Signer, Wanted]]


def _approvals(wanted: Wanted, *, first: bool) -> Iterator[Wanted]:
    """An approval cannot be parted, so a payer of very many sellers signs one for each transaction."""
    row_gas = COSTS.approval_row_gas + COSTS.receiver_gas + COSTS.first_claim_gas * first
    rows_max = (COSTS.batch_gas_max - COSTS.fixed_gas - COSTS.account_gas - COSTS.approval_gas) // row_gas
    for at in range(0, len(wanted), rows_max):
        yield wanted[at : at + rows_max]


def payer(number: int) -> Signer:
    """The payer with this number."""
    return Signer(sha256(b"tallystick gas payer %d" % number).digest())


def seller(number: int) -> bytes:
    """The address of the seller with this number."""
    return sha256(b"tallystick gas seller %d" % number).digest()[:20]
