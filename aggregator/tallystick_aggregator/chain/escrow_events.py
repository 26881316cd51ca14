"""What an escrow's events mean to the ledger: what its binding (`escrow_port.EscrowBinding`) reads them as."""

from typing import NamedTuple

from tallystick.channels import ChannelConfig


class Owed(NamedTuple):
    """What a payment that failed has left with the escrow, in atomic units."""

    to: bytes
    token: bytes
    amount: int


class EscrowEvent(NamedTuple):
    """What an event of an escrow means to the ledger; what it says nothing about is empty, 0 or None."""

    block_number: int
    account_id: bytes = b""
    """The account that it is about: its state on chain may be another than before."""
    moved: int = 0
    """What it adds to the account's funds, in atomic units: more than 0 for a deposit, less for what went back."""
    opened: ChannelConfig | None = None
    """The account's configuration, where this is its first event."""
    refund_nonce: int | None = None
    """The nonce that a refund used."""
    owed: Owed | None = None
    skipped: str = ""
    """Why a row of a claim was left out."""
