"""The grants that a worker holds, and what it reports of them."""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tallystick.amounts import decode_amount, encode_amount
from tallystick.channels import channel_id
from tallystick.codec.common import read_channel
from tallystick.spend_keys import SpendKey
from tallystick.tokens import Token
from tallystick.v1 import wallet_pb2 as pb
from tallystick.vouchers import UncheckedVoucher, check_voucher
from tallystick_client.payer.fleet import codec
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.payer.wallet.grants import Clock, Grants, Line, SpendKeyGrant

IDLE_S: Final = 30.0
"""After so long without a payment a seller's headroom goes back."""

ExtendGrant = Callable[[pb.ExtendGrantRequest], Awaitable[pb.ExtendGrantResponse]]


@dataclass(slots=True, eq=False)
class _Held:
    """A grant, and what of its headroom was given back so far."""

    grant: SpendKeyGrant
    seller: Seller
    returned: int = 0
    told: pb.GrantReport | None = None
    """The last report that the wallet is known to have."""
    payments_seen: int = 0
    idle_since: float = 0.0

    def take_back(self) -> None:
        self.returned += self.grant.take_back()

    def report(self, *, is_final: bool = False) -> pb.GrantReport:
        """Its totals; final only once nothing of it is under way."""
        totals = self.grant.totals
        return pb.GrantReport(
            grant_id=self.grant.id,
            charged=encode_amount(totals.charged),
            unknown=encode_amount(totals.unknown + (self.grant.in_flight if is_final else 0)),
            returned=encode_amount(self.returned),
            is_final=is_final,
            found_charged=encode_amount(self.grant.found_charged),
        )


class RemoteGrants(Grants[_Held]):
    """The grants of one worker."""

    def __init__(self, terms: codec.WalletTerms, worker_id: bytes, extend_grant: ExtendGrant, clock: Clock) -> None:
        super().__init__(terms.max_headroom)
        self._terms = terms
        self._worker_id = worker_id
        self._extend_grant = extend_grant
        self._clock = clock

    async def extend(self, line: Line[_Held], need: int, want: int) -> None:
        """Extend a line's grant, or give it a new one."""
        held = line.held
        if held is not None and not held.grant.is_valid():
            self._leave(line)
            held = None
        request = pb.ExtendGrantRequest(
            worker_id=self._worker_id,
            request_id=os.urandom(16),
            payee=codec.write_payee(line.seller),
            grant_id=held.grant.id if held is not None else 0,
            need=encode_amount(need),
            want=encode_amount(want),
            reports=[held.report()] if held is not None else [],
        )
        response = await self._extend_grant(request)
        if held is not None and line.held is not held and response.grant_id == held.grant.id:
            # The grant was retired in the meantime: its final report gives this back with the rest.
            return
        if held is None or line.held is not held or response.grant_id != held.grant.id:
            self._leave(line)
            held = _Held(self._new_grant(response, line.seller), line.seller, idle_since=time.monotonic())
            line.held = held
        voucher = check_voucher(
            line.seller.operator.domain,
            UncheckedVoucher(held.grant.channel_id, decode_amount(response.ceiling, "ceiling"), response.signature),
            self._terms.payer,
        )
        held.grant.extend(decode_amount(response.amount, "amount"), voucher)

    def retire(self, operator: Operator, token: Token) -> None:
        """Pay no more from the present grants of this operator and token; those who come get new ones."""
        for line in self._lines.values():
            if (line.seller.operator, line.seller.token) == (operator, token):
                self._leave(line)

    def reports(self) -> list[tuple[_Held, pb.GrantReport]]:
        """What the wallet does not know yet."""
        reports = [(held, held.report()) for held in self._holding()]
        for held in self._leaving:
            held.take_back()
            reports.append((held, held.report(is_final=not held.grant.in_flight)))
        return [(held, report) for held, report in reports if report != held.told]

    def reported(
        self, reports: list[tuple[_Held, pb.GrantReport]], closed: frozenset[int], *, is_new_worker: bool
    ) -> None:
        """The wallet has these reports. It has closed some grants: they are spent no more, it counts all of them as
        spent. `is_new_worker`: it did not know this worker, which it may have taken for dead.
        """
        for held, report in reports:
            held.told = None if is_new_worker and not report.is_final else report
        self._leaving = [held for held in self._leaving if held.told is None or not held.told.is_final]
        for line in self._lines.values():
            if line.held is not None and line.held.grant.id in closed:
                line.held.grant.closed = True
                line.held = None
        self._leaving = [held for held in self._leaving if held.grant.id not in closed]
        if is_new_worker:
            for held in self._holding():
                held.told = None  # it may be closed too

    def give_back_idle(self) -> None:
        """Take back what no payment is using, for the next report."""
        for line in self._lines.values():
            if line.held is not None and line.is_idle:
                line.held.take_back()

    def return_idle(self) -> None:
        """Leave the grants that were not paid from for a while."""
        now = time.monotonic()
        for seller, line in list(self._lines.items()):
            held = line.held
            if held is None:
                if line.is_idle:
                    del self._lines[seller]
            elif held.grant.payments != held.payments_seen or not line.is_idle:
                held.payments_seen, held.idle_since = held.grant.payments, now
            elif now - held.idle_since > IDLE_S:
                self._leave(line)

    def final_reports(self) -> list[pb.GrantReport]:
        """The end: what became of all grants. Who waits is told, and payments under way are unknown."""
        self._leave_all()
        return [held.report(is_final=True) for held in self._leaving]

    def _new_grant(self, response: pb.ExtendGrantResponse, seller: Seller) -> SpendKeyGrant:
        config = read_channel(response.config, "config")
        return SpendKeyGrant(
            response.grant_id,
            channel_id(seller.operator.domain, config),
            config,
            SpendKey(response.key_id, response.key_secret),
            response.valid_until,
            self._clock,
        )

    def _per_request(self, seller: Seller) -> int:
        return self._terms.per_request[seller.operator, seller.token.address]

    def _take_back(self, held: _Held) -> None:
        held.take_back()
