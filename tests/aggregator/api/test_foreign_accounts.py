"""A store whose accounts the configuration cannot claim is not served (nobody would ever be paid)."""

from dataclasses import replace
from typing import Any

import pytest
from batch_market import REF, BatchPayer
from batch_twin import BATCH_OPERATOR
from doubles import DOMAIN, ESCROW_REF, NETWORK, OPERATOR, TOKEN, Payer, PureLedger

from tallystick.eip712 import BATCH_SETTLEMENT_ADDRESS
from tallystick.signatures import Signer
from tallystick_aggregator.chain.settings import ChainSettings, ConfigurationError, TokenSettings
from tallystick_aggregator.ledger import accounts
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.runtime.foreign_accounts import refuse_foreign_accounts

KEY = Signer(b"\x11" * 32)
SETTINGS = ChainSettings(
    network=NETWORK,
    rpc_urls=("http://127.0.0.1:1",),
    escrow=DOMAIN.verifying_contract,
    operator=OPERATOR,
    operator_signer=KEY,
    sender=KEY,
    tokens=(TokenSettings(TOKEN, "USDC", 6, "USD Coin", "2"),),
)
CANONICAL = replace(SETTINGS, escrow=BATCH_SETTLEMENT_ADDRESS, operator=BATCH_OPERATOR.address)


def check(**changes: Any) -> None:
    books = PureLedger()
    books.fund(Payer("alice"), 1_000)
    refuse_foreign_accounts(books.ledger, [replace(SETTINGS, **changes)], "store.db")


def test_accounts_of_the_configured_operator_are_served() -> None:
    check()


@pytest.mark.parametrize("changes", [{"network": "eip155:1"}, {"operator": b"\x07" * 20}, {"escrow": b"\x07" * 20}])
def test_accounts_that_nobody_could_claim_keep_the_server_from_starting(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="does not serve"):
        check(**changes)


def test_heads_of_escrows_that_are_served_no_more_are_let_go() -> None:
    """Their mirrors are never stale, so nothing would look as if every mirror were (test_maintenance)."""
    books = PureLedger()
    books.fund(Payer("alice"), 1_000)
    for escrow in (ESCROW_REF, EscrowRef(NETWORK, b"\x07" * 20)):
        books.run(lambda draft, _, __, escrow=escrow: draft.record(ev.ChainAdvanced(escrow, 7, bytes(32))))
    refuse_foreign_accounts(books.ledger, [SETTINGS], "store.db")
    assert [*books.ledger.heads] == [ESCROW_REF]


def test_channels_of_batch_settlement_are_served_as_long_as_it_is_configured() -> None:
    books, alice = PureLedger(), BatchPayer("alice")
    books.run(lambda draft, _, __: accounts.open_account(draft, alice.channel_id, REF, alice.config))
    refuse_foreign_accounts(books.ledger, [SETTINGS, CANONICAL], "store.db")
    for without in ([SETTINGS], [SETTINGS, replace(CANONICAL, operator=OPERATOR)]):
        with pytest.raises(ConfigurationError, match="does not serve"):
            refuse_foreign_accounts(books.ledger, without, "store.db")
