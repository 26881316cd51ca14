"""A wallet for programs without an event loop: it runs on one of its own, on a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, Self, TypeVar

from tallystick_client.payer.errors import BookUnavailableError
from tallystick_client.payer.wallet.schemes.port import Payer

T = TypeVar("T")


class ClosablePayer(Payer, Protocol):
    """A wallet, opened in this process or served by another."""

    async def close(self) -> None:
        """Close it."""
        ...


P = TypeVar("P", bound=ClosablePayer)


class WalletThread(Generic[P]):
    """Opens a wallet on a thread of its own, and closes it there; threads may share it.

        with WalletThread(Wallet.open("wallet.db", key="env:PAYER_KEY", operators=[operator])) as wallet:
            with httpx2.Client(transport=SyncPayingTransport(wallet)) as http:
                page = http.get("https://example.org/articles/1")

    `wallet` is the wallet itself; what it offers as coroutines is called by `run`.
    """

    def __init__(self, opening: Coroutine[Any, Any, P]) -> None:
        """Open the wallet; raises what opening it raises."""
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._is_closed = False
        # What was scheduled before the stop is done or cancelled by it; what came later would be waited for for ever.
        self._scheduling = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="tallystick-wallet", daemon=True)
        self._thread.start()
        try:
            self.wallet: P = self.run(opening)
        except BaseException:
            self._stop()
            raise

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the wallet's loop, and return its result; it is cancelled where the caller is.

        Raises what it raises, and BookUnavailableError where the wallet is closed.
        """
        with self._scheduling:
            if self._is_closed:
                work.close()
                raise BookUnavailableError("the wallet is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call_soon(self, call: Callable[[], object]) -> None:
        """Call this on the wallet's loop, without waiting for it; not where the wallet is closed."""
        with self._scheduling:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(call)

    def close(self) -> None:
        """Close the wallet and end its thread."""
        try:
            self.run(self.wallet.close())
        finally:
            self._stop()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the wallet."""
        self.close()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stopped.wait())

    def _stop(self) -> None:
        with self._scheduling:
            if not self._is_closed:
                self._is_closed = True
                self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
