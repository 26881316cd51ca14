"""A store whose accounts the configuration cannot claim is not served (nobody would ever be paid)."""

from typing import Any

import pytest
from doubles import DOMAIN, ESCROW_REF, NETWORK, Payer, PureLedger

from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.runtime.foreign_accounts import refuse_foreign_accounts


class Settings:
    """What the check reads of a configured chain."""

    def __init__(self, **changes: Any) -> None:
        alice = Payer("alice")
        self.network = changes.get("network", NETWORK)
        self.chain_id = 31337
        self.escrow = changes.get("escrow", DOMAIN.verifying_contract)
        self.operator = changes.get("operator", alice.config.receiver_authorizer)


def check(**changes: Any) -> None:
    books = PureLedger()
    books.fund(Payer("alice"), 1_000)
    refuse_foreign_accounts(books.ledger, [Settings(**changes)], "store.db")  # type: ignore[list-item]


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
    refuse_foreign_accounts(books.ledger, [Settings()], "store.db")  # type: ignore[list-item]
    assert [*books.ledger.heads] == [ESCROW_REF]
