"""The application's response in ASGI, held back until it is known whether it goes out."""

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final

from tallystick.errors import TallystickError
from tallystick_client.seller.paywall.bodies import Message

Send = Callable[[Message], Awaitable[None]]

START: Final = "http.response.start"
BODY: Final = "http.response.body"
AHEAD_OF_RESPONSE: Final = frozenset({"http.response.push", "http.response.early_hint", "http.response.debug"})
"""Messages that carry nothing of the page."""


class ResponseRefusedError(TallystickError, OSError):
    """What the application gets when it goes on sending a response that is not delivered.

    An OSError, as ASGI demands of `send` to a client that is gone: frameworks stop at it quietly.
    """


class Stage(Enum):
    """Where a response is: nothing of it was sent, or it goes out, or another one was sent instead."""

    HELD = "held"
    PASSING = "passing"
    REFUSED = "refused"


class Outgoing:
    """The application's response, held back until its first byte.

    Then `decide` is asked once, with the message that starts the response and the first of its body. It returns the
    start to send, or None after it has answered the client itself: then nothing of the response goes out.
    """

    def __init__(self, send: Send, decide: Callable[[Message, Message], Awaitable[Message | None]]) -> None:
        self._send = send
        self._decide = decide
        self._start: Message | None = None
        self.stage = Stage.HELD

    async def send(self, message: Message) -> None:
        """What the application calls."""
        if self.stage is Stage.PASSING or message["type"] in AHEAD_OF_RESPONSE:
            await self._send(message)
        elif self.stage is Stage.REFUSED:
            raise ResponseRefusedError("the response is not delivered: it was not paid for")
        elif message["type"] == START:
            self._start = message
        else:
            await self._first_byte(message)

    async def _first_byte(self, message: Message) -> None:
        assert self._start is not None, "a body has a start before it"
        start = await self._decide(self._start, message)
        if start is None:
            self.stage = Stage.REFUSED
            return
        self.stage = Stage.PASSING
        await self._send(start)
        await self._send(message)
