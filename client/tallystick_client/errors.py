"""What goes wrong between a client and an aggregator; nothing here needs gRPC.

AggregatorError                 below TallystickError; the call itself failed, nothing is known about money
├── AggregatorUnavailableError  try again later: not reachable, too slow, or overloaded. It may have had effect.
└── CallRejectedError           trying again changes nothing: not authenticated, malformed, not implemented
"""

from typing import TYPE_CHECKING

from tallystick.errors import TallystickError

if TYPE_CHECKING:
    import grpc


class AggregatorError(TallystickError):
    """A call to the aggregator failed as a call; `status` is gRPC's."""

    def __init__(self, message: str, status: "grpc.StatusCode") -> None:
        self.status = status
        super().__init__(message)


class AggregatorUnavailableError(AggregatorError):
    """The aggregator did not answer. The call may have had its effect: repeat it with the same ids."""


class CallRejectedError(AggregatorError):
    """The aggregator does not take this call from this caller, however often it is repeated."""
