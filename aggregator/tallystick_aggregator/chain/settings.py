"""What a chain is configured with: one `ChainSettings` for each escrow of a `[[chain]]` of the configuration, checked
as far as can be without asking the chain. `EvmChain.start` checks the rest. Units are in the names.
"""

from dataclasses import dataclass, field
from typing import Final

from tallystick.channels import WITHDRAW_DELAY_S_MAX, WITHDRAW_DELAY_S_MIN
from tallystick.eip712 import BATCH_SETTLEMENT_ADDRESS, Domain, batch_settlement_domain, escrow_domain
from tallystick.signatures import Signer
from tallystick.tokens import Token
from tallystick_aggregator.ledger.values import EscrowRef

TRANSACTION_BYTES_MAX: Final = 126_000
"""Signed bytes of one transaction at most: nodes do not relay more than 131,072 (threat 40)."""
DEV_CHAIN_IDS: Final = frozenset({1337, 31337})
"""Chains that mine only when something is sent: the age of their head means nothing."""
HEAD_AGE_S_MAX: Final = 300
"""How old a live chain's newest block may be before its endpoints count as stuck."""

LOGS_RANGE_BLOCKS: Final = 2_000
"""Blocks in one search for events, where the endpoint takes as many."""
URGENT_CAP_FACTOR: Final = 4
"""How many times the usual cap a withdrawal's claim may bid, unless that is configured."""

_GWEI: Final = 10**9


class ConfigurationError(Exception):
    """A configuration that cannot work; its text is one sentence for whoever starts the server."""


@dataclass(frozen=True, slots=True)
class TokenSettings(Token):
    """A token on the allow-list. `worth_gwei`: roughly what a whole one is worth in the chain's coin; 0: not told.

    `by_eip3009`, `by_permit2`: how payments without a deposit may move it. `sponsors_permits`: whether EIP-2612 permits
    to Permit2 are landed with such a payment.
    """

    worth_gwei: float = 0.0
    by_eip3009: bool = True
    by_permit2: bool = False
    sponsors_permits: bool = False

    def worth_wei(self, amount: int) -> int | None:
        """Roughly what so many atomic units are worth, in wei; None if that was not told."""
        if not self.worth_gwei:
            return None
        return int(amount * round(self.worth_gwei * _GWEI) // 10**self.decimals)


@dataclass(frozen=True, slots=True)
class FeeSettings:
    """What a transaction may bid (EIP-1559), in wei per gas.

    Above `max_fee_per_gas_wei` a transaction waits in the outbox until the chain is cheaper again. What must land
    before a withdrawal ends may bid up to `urgent_max_fee_per_gas_wei` (0: URGENT_CAP_FACTOR times as much), and its
    tip may pass `priority_fee_per_gas_wei_max` in the same ratio.
    """

    max_fee_per_gas_wei: int = 500 * _GWEI
    priority_fee_per_gas_wei_min: int = 1
    priority_fee_per_gas_wei_max: int = 50 * _GWEI
    urgent_max_fee_per_gas_wei: int = 0

    @property
    def urgent_max_fee_wei(self) -> int:
        """The most that is ever bid."""
        return self.urgent_max_fee_per_gas_wei or URGENT_CAP_FACTOR * self.max_fee_per_gas_wei


@dataclass(frozen=True, slots=True)
class ChainLimits:
    """How much is read at once, and how long is waited. Nobody configures them; tests vary them."""

    offer_again_s: float = 15.0
    """How often the bytes of a waiting transaction are offered again to pools that may have dropped it."""
    look_again_s: float = 2.0
    """How often a transaction is looked up while there is no new block."""
    unproven_s: float = 600.0
    """For so long a receipt may be late after a nonce was used in a final block, if nobody can tell by whom."""
    trace_s_max: float = 3.0
    """For so long a look waits for the events of an account that is traced; what was found by then is kept."""
    waiting_per_look: int = 1_000
    """Accounts at most that are read again in a look because something of them is held back."""
    accounts_per_decision: int = 500
    """Accounts taken in together at most: bounds how long the ledger's writer is held."""
    items_per_read: int = 1_000
    """Accounts or channels per eth_call: some 5 million gas, a tenth of what most nodes allow. Halved where one allows
    less gas, or shorter questions and answers."""


@dataclass(frozen=True, slots=True)
class BundleSettings:
    """Where bundles are offered, and the key that sends them and nothing else."""

    url: str = field(repr=False)
    sender: Signer


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """One escrow on its network, with tokens and keys. The settings of a network's escrows differ in the escrow only.

    `operator` may be a contract (contracts/src/Operator.sol); `operator_signer` is then one of its signers, else the
    operator's own key. `sender` pays for gas. A block is final when `confirmations` blocks follow it. `escrow_block` is
    where the search for accounts begins: the block of the escrow's deployment, or any before it.
    """

    network: str
    rpc_urls: tuple[str, ...] = field(repr=False)
    """Some hold a provider's key."""
    escrow: bytes
    operator: bytes
    operator_signer: Signer
    sender: Signer
    tokens: tuple[TokenSettings, ...]
    escrow_block: int = 0
    confirmations: int = 12
    reorg_depth: int = 64
    poll_s: float = 2.0
    rpc_timeout_s: float = 10.0
    logs_range_blocks_max: int = LOGS_RANGE_BLOCKS
    replace_after_s: float = 60.0
    withdraw_delay_s_min: int = WITHDRAW_DELAY_S_MIN
    withdraw_delay_s_max: int = WITHDRAW_DELAY_S_MAX
    head_age_s_max: int | None = None
    """None: HEAD_AGE_S_MAX, and no limit on chains for development. 0: no limit."""
    fees: FeeSettings = FeeSettings()
    limits: ChainLimits = ChainLimits()
    bundles: BundleSettings | None = None
    """None: nobody's approval is paid for."""

    def __post_init__(self) -> None:
        """Check what needs no chain. Raises ConfigurationError."""
        _require(
            self.chain_id > 0 and self.network == f"eip155:{self.chain_id}",
            f"network: got {self.network!r}, allowed eip155: and a chain id, without leading zeros",
        )
        _require(bool(self.rpc_urls), f"{self.network}: rpc_urls is empty; name at least one endpoint")
        _require(bool(self.tokens), f"{self.network}: no token is configured; name at least one")
        _require(self.confirmations >= 0, f"{self.network}: confirmations: got {self.confirmations}, allowed 0 or more")
        _require(
            self.reorg_depth >= self.confirmations,
            f"{self.network}: reorg_depth: got {self.reorg_depth}, allowed {self.confirmations} or more",
        )
        _require(self.poll_s > 0, f"{self.network}: poll_s: got {self.poll_s}, allowed above 0")
        _require(
            WITHDRAW_DELAY_S_MIN <= self.withdraw_delay_s_min <= self.withdraw_delay_s_max <= WITHDRAW_DELAY_S_MAX,
            f"{self.network}: withdraw_delay_s: got {self.withdraw_delay_s_min} to {self.withdraw_delay_s_max},"
            f" allowed {WITHDRAW_DELAY_S_MIN} to {WITHDRAW_DELAY_S_MAX}",
        )
        _require(
            self.logs_range_blocks_max >= 1,
            f"{self.network}: logs_range_blocks_max: got {self.logs_range_blocks_max}, allowed 1 or more",
        )
        fees = self.fees
        _require(
            0 <= fees.priority_fee_per_gas_wei_min <= fees.priority_fee_per_gas_wei_max <= fees.max_fee_per_gas_wei,
            f"{self.network}: fees: the priority fee's minimum, its maximum and the cap must not fall in this order",
        )
        _require(
            fees.priority_fee_per_gas_wei_min * 9 // 8 < fees.priority_fee_per_gas_wei_max,
            f"{self.network}: fees: the priority fee's minimum must be an eighth below its maximum,"
            " or no transaction could ever be replaced by one that bids more",
        )
        _require(
            fees.urgent_max_fee_wei >= fees.max_fee_per_gas_wei,
            f"{self.network}: fees: the cap for withdrawals' claims must not be below the usual one",
        )

    @property
    def chain_id(self) -> int:
        """The EIP-155 chain id that the CAIP-2 name holds; 0 if it holds none."""
        namespace, _, reference = self.network.partition(":")
        return int(reference) if namespace == "eip155" and reference.isascii() and reference.isdecimal() else 0

    @property
    def escrow_ref(self) -> EscrowRef:
        """The escrow as the ledger names it."""
        return EscrowRef(self.network, self.escrow)

    @property
    def is_canonical(self) -> bool:
        """Whether the escrow is x402BatchSettlement, which has this address on every chain; else it is Escrow.sol."""
        return self.escrow == BATCH_SETTLEMENT_ADDRESS

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of the escrow."""
        return (
            batch_settlement_domain(self.chain_id) if self.is_canonical else escrow_domain(self.chain_id, self.escrow)
        )

    @property
    def stale_after_s(self) -> float:
        """How old the mirror may be: a quarter of the shortest withdraw delay (I9)."""
        return self.withdraw_delay_s_min / 4

    @property
    def head_age_s_allowed(self) -> int:
        """How old the head's timestamp may be; 0: any age."""
        if self.head_age_s_max is not None:
            return self.head_age_s_max
        return 0 if self.chain_id in DEV_CHAIN_IDS else HEAD_AGE_S_MAX


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ConfigurationError(sentence)
