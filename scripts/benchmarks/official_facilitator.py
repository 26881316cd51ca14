"""The official x402 package's facilitator under measurement: FastAPI on uvicorn, one worker, as its documents say."""

import logging
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from x402 import x402Facilitator
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.schemas import PaymentRequirements, parse_payment_payload

from _children import say, settings_of_child


class Asked(BaseModel):
    """The body of /verify and /settle."""

    paymentPayload: dict[str, Any]  # noqa: N815 - x402's names
    paymentRequirements: dict[str, Any]  # noqa: N815


def application(settings: dict[str, Any]) -> FastAPI:
    """The package's facilitator for exact, with its own signer."""
    facilitator = x402Facilitator()
    signer = FacilitatorWeb3Signer(private_key=settings["key"], rpc_url=settings["rpc"])
    register_exact_evm_facilitator(facilitator, signer, networks=settings["network"])
    app = FastAPI()

    @app.post("/verify")
    async def verify(asked: Asked) -> dict[str, Any]:
        terms = PaymentRequirements.model_validate(asked.paymentRequirements)
        verified = await facilitator.verify(parse_payment_payload(asked.paymentPayload), terms)
        return verified.model_dump(by_alias=True, exclude_none=True)

    @app.post("/settle")
    async def settle(asked: Asked) -> dict[str, Any]:
        terms = PaymentRequirements.model_validate(asked.paymentRequirements)
        settled = await facilitator.settle(parse_payment_payload(asked.paymentPayload), terms)
        return settled.model_dump(by_alias=True, exclude_none=True)

    return app


def main() -> None:
    """Serve on a free port of 127.0.0.1 until ended."""
    logging.disable(logging.WARNING)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(
        application(settings_of_child()), loop="uvloop", http="httptools", access_log=False, log_level="error"
    )
    say({"port": listener.getsockname()[1]})
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
