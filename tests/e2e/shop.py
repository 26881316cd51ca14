"""The shop of the end-to-end tests: FastAPI behind the paywall, with handlers that behave in every way."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from tallystick_client import Aggregator, Paywall, RequestInfo, Rule

DEAR = "5 USDC"


def price_of(request: RequestInfo) -> str | None:
    """The site's pages: free ones, one dear one, and all others."""
    if request.path.startswith("/site/free-"):
        return None
    return DEAR if request.path == "/site/dear" else os.environ["SHOP_PRICE"]


app = FastAPI()
app.add_middleware(
    Paywall,
    aggregator=Aggregator(os.environ["SHOP_AGGREGATOR"], token="env:SHOP_TOKEN"),
    pay_to=os.environ["SHOP_RECEIVER"],
    rules=[Rule(path="/paid/*", price=os.environ["SHOP_PRICE"]), Rule(path="/site/*", price=price_of)],
)
LOG = Path(os.environ["SHOP_LOG"])


def note(what: str) -> None:
    """Remember that a handler ran."""
    with LOG.open("a") as log:
        log.write(what + "\n")


@app.get("/free")
async def free() -> str:
    return "free"


@app.get("/paid/page/{name}")
async def page(name: str) -> str:
    note(f"page {name}")
    return f"page {name}"


@app.get("/site/{name}")
async def site(name: str) -> str:
    note(f"site {name}")
    return f"site {name}"


@app.get("/paid/metered/{used}")
async def metered(request: Request, used: int) -> str:
    note(f"metered {used}")
    request.scope["tallystick"].capture(used)
    return f"used {used}"


@app.post("/paid/echo")
async def echo(request: Request) -> str:
    note("echo")
    return (await request.body()).decode()


@app.get("/paid/missing")
async def missing() -> str:
    note("missing")
    raise HTTPException(404)


@app.get("/paid/broken")
async def broken() -> str:
    note("broken")
    raise HTTPException(500)


@app.get("/paid/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(3):
            yield f"part {number}\n"

    return StreamingResponse(parts())
