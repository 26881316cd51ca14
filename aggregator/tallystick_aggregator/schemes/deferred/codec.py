"""How payments of `deferred` come in: a channel's configuration with a charge; later the reservation's handle."""

from typing import Final, NamedTuple

from tallystick.channels import ChannelConfig
from tallystick.errors import MalformedError
from tallystick.v1 import facilitator_pb2
from tallystick_aggregator.charging.codec import below, fixed, read_channel, read_charge
from tallystick_aggregator.charging.payments import UncheckedPayment

HANDLE_BYTES: Final = 64


class ChannelPayment(NamedTuple):
    """A payment, and what names its channel, so that one that is not known yet can be opened."""

    config: ChannelConfig
    payment: UncheckedPayment


def read_deferred(message: facilitator_pb2.DeferredPayment) -> ChannelPayment:
    """Read a `deferred` payment."""
    if not message.HasField("charge"):
        raise MalformedError("deferred.charge", None, "a charge")
    config = read_channel(message.config, "deferred.config")
    try:
        return ChannelPayment(config, read_charge(message.charge))
    except MalformedError as error:
        raise below("deferred.charge", error) from None


def read_handle(handle: bytes) -> bytes:
    """Read what names a reservation."""
    return fixed(handle, HANDLE_BYTES, "handle")
