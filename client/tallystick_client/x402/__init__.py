"""Plug-ins for the official Python SDK, `x402`; pip install 'tallystick[x402]'. Nothing else here imports that package.

client       buyers: `deferred` from a wallet, for x402Client and x402ClientSync
requests     the SDK's adapter for `requests`, shown which request is paid for
server       sellers: `deferred` for x402ResourceServer and x402ResourceServerSync
managed      sellers: `batch-settlement` for the same two, whose vouchers the facilitator manages
prices       sellers: what a page costs, in which token
kept         sellers: answers that are sent again to who paid for them
facilitator  sellers: an aggregator over gRPC, as the SDK's facilitator client
auth         sellers: a token for the SDK's facilitator client over HTTP
binding      what a payment is for
payments     the buyers' payments that are under way
messages     the SDK's objects as ours
"""

from tallystick_client.x402.auth import BearerAuth
from tallystick_client.x402.client import DeferredClientScheme, DeferredClientSchemeSync
from tallystick_client.x402.facilitator import FacilitatorClient, FacilitatorClientSync
from tallystick_client.x402.kept import KeptAnswers, KeptAnswersMiddleware
from tallystick_client.x402.managed import FacilitatorManagedServerScheme
from tallystick_client.x402.server import DeferredServerScheme

__all__ = [
    "BearerAuth",
    "DeferredClientScheme",
    "DeferredClientSchemeSync",
    "DeferredServerScheme",
    "FacilitatorClient",
    "FacilitatorClientSync",
    "FacilitatorManagedServerScheme",
    "KeptAnswers",
    "KeptAnswersMiddleware",
]
