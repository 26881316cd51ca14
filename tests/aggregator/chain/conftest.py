"""Makes the harness importable by name."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tallystick_aggregator.chain.rpc.node import RpcNode

sys.path.append(str(Path(__file__).parent))

from rpc_servers import Answer, Endpoint


@pytest.fixture
async def nodes() -> AsyncIterator[Callable[..., Any]]:
    started: list[Endpoint] = []
    opened: list[RpcNode] = []

    async def make(*answers: Answer, urls: tuple[str, ...] = (), **keywords: Any) -> RpcNode:
        endpoints = [Endpoint(answer) for answer in answers]
        started.extend(endpoints)
        node = RpcNode([*urls, *[await endpoint.start() for endpoint in endpoints]], timeout_s=0.5, **keywords)
        opened.append(node)
        return node

    yield make
    for node in opened:
        await node.close()
    for endpoint in started:
        await endpoint.stop()
