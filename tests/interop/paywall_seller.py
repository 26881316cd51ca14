"""A seller behind Tallystick's own paywall: it asks its aggregator over gRPC."""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI, Request

from _children import say, settings_of_child
from tallystick_client import Aggregator, Paywall, Rule

settings = settings_of_child()
app = FastAPI()
app.add_middleware(
    Paywall,
    aggregator=Aggregator(settings["aggregator"], token=settings["token"], insecure=True),
    pay_to=settings["pay_to"],
    rules=[Rule(path="/*", price=settings["price"])],
)


@app.get("/{page}")
async def page(page: str, request: Request) -> dict[str, str]:
    """What is paid for."""
    paid = request.scope["tallystick"]
    if page == "upto":
        paid.capture(int(settings["used"]))
    return {"page": page}


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    say({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"})
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener]))
