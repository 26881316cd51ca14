"""A seller of the demo: a FastAPI site whose pages cost money. Run by uvicorn, configured by the environment."""

import os

from fastapi import FastAPI

from tallystick_client import Aggregator, Paywall, Rule

app = FastAPI()
app.add_middleware(
    Paywall,
    aggregator=Aggregator(os.environ["DEMO_AGGREGATOR"], token="env:DEMO_TOKEN", insecure=True),
    pay_to=os.environ["DEMO_RECEIVER"],
    rules=[Rule(path="/pages/*", price=os.environ["DEMO_PRICE"])],
)


@app.get("/pages/{number}")
async def page(number: int) -> dict[str, str]:
    """A page worth paying for."""
    return {"page": str(number), "text": f"What the world should know about {number}."}


@app.get("/")
async def front() -> dict[str, str]:
    """The front page is free."""
    return {"pages": "/pages/1"}
