"""One endpoint through our provider: asked once, bounded in time and size, safe to cancel; web3 on top of it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from web3 import AsyncWeb3

from anvil import Devnet
from tallystick.signatures import Signer
from tallystick_chain.caller import Caller, TransactionFailedError
from tallystick_chain.errors import ChainUnavailableError, RpcError, UnansweredError
from tallystick_chain.provider import Provider

Serve = Callable[[web.Request], Any]


class Served:
    """An HTTP server that answers as it is told, and a provider for it."""

    def __init__(self) -> None:
        self.requests = 0
        self.answer: Serve = lambda _request: web.Response(body=b'{"jsonrpc": "2.0", "id": 0, "result": "0x1"}')
        self.url = ""
        self.provider: Any = None

    async def handle(self, request: web.Request) -> Any:
        self.requests += 1
        answer = self.answer(request)
        return await answer if asyncio.iscoroutine(answer) else answer

    def says(self, body: bytes, **rest: Any) -> None:
        self.answer = lambda _request: web.Response(body=body, **rest)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.url = f"http://127.0.0.1:{port}"
    made.provider = Provider(f"{made.url}/v1/secret-key", timeout_s=2, response_bytes_max=10_000_000)
    yield made
    await made.provider.disconnect()
    await runner.cleanup()


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 200_000, b'{"result":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b"\xff", b"[]"]
)
async def test_what_is_no_json_or_nested_too_deeply_is_no_answer(served: Served, body: bytes) -> None:
    served.says(body)
    with pytest.raises(UnansweredError, match="no JSON-RPC response"):
        await served.provider.ask("eth_chainId")


async def test_a_response_that_is_too_large_is_about_the_call_and_is_not_read_on(served: Served) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 100_000)

    served.answer = endless
    with pytest.raises(RpcError, match="too large"):
        await served.provider.ask("eth_getLogs", {})


async def test_a_redirect_is_not_followed(served: Served) -> None:
    served.says(b"", status=302, headers={"Location": served.url})
    with pytest.raises(UnansweredError, match="status 302"):
        await served.provider.ask("eth_chainId")
    assert served.requests == 1


async def test_a_transaction_is_sent_once_whatever_becomes_of_it(served: Served) -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    served.answer = hang_up
    with pytest.raises(UnansweredError) as told:
        await AsyncWeb3(served.provider).eth.send_raw_transaction(b"\x02")
    assert served.requests == 1
    assert "secret" not in str(told.value)


async def test_questions_that_are_cancelled_leave_it_usable(served: Served) -> None:
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(body=b'{"result": 7}')

    served.answer = slow
    asking = [asyncio.create_task(served.provider.ask("eth_chainId")) for _ in range(50)]
    await asyncio.sleep(0)
    for task in asking[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert outcomes[1::2] == [7] * 25
    assert await served.provider.ask("eth_chainId") == 7


async def test_an_answer_that_takes_too_long_is_none(served: Served) -> None:
    quick = Provider(served.url, timeout_s=0.05)
    served.answer = lambda _request: asyncio.sleep(30)
    with pytest.raises(UnansweredError, match="eth_chainId: TimeoutError"):
        await quick.ask("eth_chainId")
    await quick.disconnect()


@pytest.mark.parametrize("url", ["http://", "nothing", "http://[::1", "http://127.0.0.1:99999/"])
async def test_what_is_no_url_of_an_endpoint_does_not_answer(url: str) -> None:
    provider = Provider(url, timeout_s=1)
    with pytest.raises(ChainUnavailableError):
        await provider.ask("eth_chainId")
    await provider.disconnect()


async def test_web3_is_told_of_errors_by_our_exceptions(served: Served) -> None:
    error = {"code": -32029, "message": "too many requests"}
    served.says(json.dumps({"error": error}).encode(), status=429, headers={"Retry-After": "3"})
    with pytest.raises(RpcError, match="too many requests") as told:
        await AsyncWeb3(served.provider).eth.block_number
    assert (told.value.status, told.value.retry_after) == (429, "3")


async def test_a_transaction_that_is_in_no_block_is_told_with_its_hash(devnet: Devnet) -> None:
    ticks = iter(range(0, 1_000, 60))
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    caller = Caller(devnet.anvil.url, clock=lambda: float(next(ticks)), pause=pause)
    sender = Signer(b"\x09" * 32)
    devnet.anvil.set_ether(sender.address, 10**18)
    devnet.anvil.mine()  # at the price that the next block was given by whoever used this chain before
    devnet.anvil.automine(False)
    try:
        with pytest.raises(TransactionFailedError, match=r"0x[0-9a-f]{64} is in no block after 180 s"):
            await caller.send(sender, sender.address, b"")
    finally:
        devnet.anvil.automine(True)
        await caller.close()
    assert pauses == [0.05, 0.1]


async def test_what_web3_cannot_read_is_no_answer(served: Served) -> None:
    served.says(b'{"result": "nonsense"}')
    caller = Caller(served.url)
    for asked in (caller.chain_id(), caller.balance(bytes(20)), caller.gas_limit(bytes(20), b"", b""), caller.bid()):
        with pytest.raises(ChainUnavailableError):
            await asked
    with pytest.raises(ValueError, match="symbol"):
        await caller.read(bytes(20), "TestUSDC", "symbol")
    await caller.close()


def test_web3_leaves_the_limit_of_recursion_alone() -> None:
    """Otherwise JSON that is nested deeply ends the process."""
    imports = "import tallystick_chain.caller, tallystick_aggregator.runtime.app"
    program = f"import sys; before = sys.getrecursionlimit(); {imports}; assert sys.getrecursionlimit() == before"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("path", ["/v1/SECRET", "?key=SECRET", "#SECRET", "/SECRET@there"])
def test_the_name_of_an_endpoint_has_no_secret(path: str) -> None:
    assert Provider(f"https://SECRET:SECRET@node.example:8545{path}", timeout_s=1).name == "https://node.example:8545"
