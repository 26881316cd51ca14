"""Asking sellers for what is left in the channels with them: the seller settles a payment that buys nothing.

The seller is asked at a page that was paid for. What it says came back is entered, up to what was left; the transaction
that it names is the caller's to check.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import httpx2

from tallystick.hexadecimal import to_hex
from tallystick.reasons import Reason
from tallystick.x402 import PAYMENT_REQUIRED_HEADER, PAYMENT_SIGNATURE_HEADER
from tallystick_client.payer.errors import WalletError
from tallystick_client.payer.policy.answers import Answer, is_refused, read_receipt, told_error
from tallystick_client.payer.policy.offers import Asked, read_offers
from tallystick_client.payer.wallet.rows import SellerChannel
from tallystick_client.payer.wallet.schemes.port import AsksSellers, OutgoingPayment, Payer

TRIES_MAX: Final = 4
"""How often a seller is asked, while it corrects the request or is busy."""
_MARGIN_S: Final = 10.0
_UNKNOWN: Final = Reason.UNSPECIFIED


class CameBack(NamedTuple):
    """What a seller gave back: atomic units of the channel's token, and the transaction as the seller names it."""

    amount: int
    transaction: str


async def ask_back(
    payer: Payer, http: httpx2.AsyncClient, channel: SellerChannel, clock: Callable[[], float] = time.time
) -> CameBack:
    """Ask the channel's seller for all that is left in it. Raises WalletError where nothing came back, and why.

    `http`: a client that pays for nothing.
    """
    scheme = next((scheme for scheme in payer.schemes.values() if isinstance(scheme, AsksSellers)), None)
    if scheme is None or payer.channels is None:
        raise WalletError("this wallet does not pay from channels with one seller")
    problem = "it gave no reason"
    for _ in range(TRIES_MAX):
        payment = await scheme.ask_back(payer, await _asked(http, channel), channel, clock)
        if payment is None:
            raise WalletError(f"{channel.url}: got no offer for channel {to_hex(channel.id)}, allowed one")
        answer = await _send(http, channel, payment, clock)
        outcome = payment.answered(answer)
        receipt = read_receipt(answer)
        if receipt is not None and receipt.success:
            await payer.channels.commit()
            return CameBack(outcome.returned, outcome.transaction)
        problem = (receipt.error_reason if receipt is not None else "") or told_error(answer.headers) or problem
        if not is_refused(answer) or not await payment.recover(payer, _UNKNOWN, channel.host):
            break
    raise WalletError(f"{channel.host} gives nothing back of channel {to_hex(channel.id)}: {problem}")


async def _asked(http: httpx2.AsyncClient, channel: SellerChannel) -> Asked:
    response = await http.get(channel.url)
    if response.status_code != 402 or PAYMENT_REQUIRED_HEADER not in response.headers:
        raise WalletError(f"{channel.url}: got {response.status_code}, allowed 402 with the offer to refund by")
    return read_offers(response.headers[PAYMENT_REQUIRED_HEADER])


async def _send(
    http: httpx2.AsyncClient, channel: SellerChannel, payment: OutgoingPayment, clock: Callable[[], float]
) -> Answer:
    try:
        headers = {PAYMENT_SIGNATURE_HEADER: payment.header}
        response = await http.get(channel.url, headers=headers, timeout=payment.patience_s(clock()) + _MARGIN_S)
    except BaseException:
        payment.lost()
        raise
    return Answer(response.status_code, response.headers)
