"""Accounts in the store that the configuration does not serve: with them the aggregator does not start."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tallystick.channels import ChannelConfig, account_id, channel_id
from tallystick.hexadecimal import checksum, to_hex
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError
from tallystick_aggregator.ledger.state import Account, Ledger
from tallystick_aggregator.ledger.values import EscrowRef


def refuse_foreign_accounts(ledger: Ledger, chains: Sequence[ChainSettings], store: str) -> None:
    """An account that no configured operator can claim must not be charged either: it would never be paid out.

    Names the escrow of accounts that were stored before they named it, and lets go of heads of escrows that are served
    no more. Raises ConfigurationError.
    """
    served = {chain.escrow_ref: (chain.operator, _account_id(chain)) for chain in chains}
    ledger.name_escrows(lambda account: _escrow_of(account, served, store))
    for account in ledger.every_account():
        if not _is_in(account, account.escrow, served):
            raise _foreign(account, store)
    ledger.keep_heads(served.keys())


_Served = Mapping[EscrowRef, tuple[bytes, Callable[[ChannelConfig], bytes]]]
"""By escrow, its operator, and what an account with a configuration has as its id."""


def _account_id(chain: ChainSettings) -> Callable[[ChannelConfig], bytes]:
    """How ids are made in an escrow: of x402's contract a channel is an account. The domain is made once for all."""
    return partial(channel_id if chain.is_canonical else account_id, chain.domain)


def _escrow_of(account: Account, served: _Served, store: str) -> EscrowRef:
    """Find the escrow that the account's id names, of those on its network. Raises ConfigurationError."""
    for escrow in served:
        if escrow.network == account.network and _is_in(account, escrow, served):
            return escrow
    raise _foreign(account, store)


def _is_in(account: Account, escrow: EscrowRef, served: _Served) -> bool:
    """Whether the account is that operator's, and has its id under that escrow's domain, which names it for certain."""
    if escrow not in served:
        return False
    operator, id_of = served[escrow]
    return account.config.receiver_authorizer == operator and id_of(account.config) == account.id


def _foreign(account: Account, store: str) -> ConfigurationError:
    return ConfigurationError(
        f"the store {store} holds account {to_hex(account.id)} of {account.network}, operator"
        f" {checksum(account.config.receiver_authorizer)}, which the configuration does not serve; start with"
        " the networks, escrows and operators that the store was made with, or with another store"
    )
