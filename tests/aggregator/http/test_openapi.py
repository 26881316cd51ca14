"""The OpenAPI document against the server: whatever fits it, and whatever does not, is answered as it says."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from http_twin import ALICE, http_edge
from hypothesis import HealthCheck, assume, settings
from schemathesis.specs.openapi.checks import ignored_auth

from tallystick_aggregator.api.http import openapi

SCHEMA = schemathesis.openapi.from_dict(json.loads(openapi.document()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A server on an event loop of its own, because the generator of requests waits for answers; URL and token."""
    folder, ready = tmp_path_factory.mktemp("openapi"), threading.Event()
    told: list[tuple[str, dict[str, str]]] = []
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve(folder: Path) -> None:
        async with http_edge(folder) as edge:
            edge.market.chain.balances[ALICE.signer.address] = 1_000
            told.append((edge.server.url, dict(edge.news)))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(folder)))
    thread.start()
    try:
        assert ready.wait(20)
        yield told[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


def _has_whole_fractions(body: Any) -> bool:
    if isinstance(body, dict):
        return any(_has_whole_fractions(value) for value in body.values())
    return isinstance(body, float) and body.is_integer()


@SCHEMA.parametrize()
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_describes(case: Any, server: tuple[str, dict[str, str]]) -> None:
    url, token = server
    # To JSON Schema 60.0 is an integer; we take no fraction for one, however it is written.
    assume(not _has_whole_fractions(case.body))
    # The token goes with every request, so that this check cannot take it away: test_discovery and test_tokens do.
    case.call_and_validate(base_url=url, headers=token, excluded_checks=[ignored_auth])
