"""A seller's token for the SDK's own facilitator client over HTTP."""

from typing import Final

from x402.http import AuthHeaders

from tallystick_client.rpc import bearer, read_token

_ENDPOINTS: Final = ("verify", "settle", "supported", "bazaar")


class BearerAuth:
    """Shows a seller's token at every endpoint.

        HTTPFacilitatorClient(FacilitatorConfig(url="https://…", auth_provider=BearerAuth("env:TALLYSTICK_TOKEN")))

    `token` is the token itself or, better, where it is: "env:NAME" or "file:PATH"; a file is read again for every
    request, so that a token can be replaced while the seller runs. Raises MalformedError where there is no token.
    """

    def __init__(self, token: str) -> None:
        self._reference = token
        self.get_auth_headers()

    def get_auth_headers(self) -> AuthHeaders:
        """The headers of each endpoint. Raises MalformedError, which does not show the token."""
        ((_, value),) = bearer(read_token(self._reference))
        return AuthHeaders(**{endpoint: {"Authorization": value} for endpoint in _ENDPOINTS})
