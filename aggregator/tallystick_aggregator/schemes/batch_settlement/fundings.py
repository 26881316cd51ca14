"""What payers of `batch-settlement` sign for a deposit: the token's authorization to a collector, or Permit2's."""

from dataclasses import dataclass, replace

from tallystick import eip712
from tallystick.channels import ChannelConfig
from tallystick.eip712 import PERMIT2_ADDRESS, PERMIT2_DEPOSIT_COLLECTOR_ADDRESS
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum, to_hex
from tallystick.x402 import Permit2Authorization
from tallystick.x402.batch_settlement import DepositPayload, Erc3009Deposit, Permit2Deposit
from tallystick_aggregator.accounts.fundings import Funding, TokenFunding, Window, why_not_by_its_key
from tallystick_aggregator.chain.port import Block, Call, DepositAuthorization, Landing
from tallystick_aggregator.chain.token_port import Permit2Token
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.ledger.refusals import Why, refuse
from tallystick_aggregator.schemes.batch_settlement.port import ChannelChain
from tallystick_aggregator.schemes.exact.permit2 import approval_refusal


def funding_of(chain: ChannelChain, payload: DepositPayload) -> Funding | Refusal:
    """How a payload's deposit is landed; refuses what does not belong together, which needs no chain to see."""
    authorization, config = payload.authorization, payload.config
    if isinstance(authorization, Erc3009Deposit):
        window, salt, signature = authorization, authorization.salt, authorization.signature
        return TokenFunding(
            chain,
            DepositAuthorization(config, payload.amount, window.valid_after, window.valid_before, salt, signature),
        )
    token = chain.permit2_tokens.get(config.token)
    if token is None:
        served = " or ".join(map(checksum, chain.permit2_tokens)) or "a deposit by ERC-3009"
        return refuse(Why.PERMIT2_OFF, checksum(config.token), served)
    refusal = _is_for_the_channel(authorization, payload)
    if refusal is not None:
        return refusal
    if not token.sponsors_permits and authorization.permit is not None:
        payload = replace(payload, authorization=replace(authorization, permit=None))
    return Permit2Funding(chain, token, payload)


def _is_for_the_channel(signed: Permit2Deposit, payload: DepositPayload) -> Refusal | None:
    config, channel_id = payload.config, payload.voucher.channel_id
    path = "payload.deposit.authorization.permit2Authorization"
    if signed.spender != PERMIT2_DEPOSIT_COLLECTOR_ADDRESS:
        return refuse(Why.PERMIT2_SPENDER, checksum(signed.spender), checksum(PERMIT2_DEPOSIT_COLLECTOR_ADDRESS))
    for name, got, allowed in (
        ("from", checksum(signed.from_), checksum(config.payer)),
        ("permitted.token", checksum(signed.token), checksum(config.token)),
        ("permitted.amount", str(signed.permitted), str(payload.amount)),
        ("witness.channelId", to_hex(signed.channel_id), to_hex(channel_id)),
    ):
        if got != allowed:
            return refuse(Why.DEPOSIT_OF_ANOTHER, got, allowed, field=f"{path}.{name}")
    return None


@dataclass(frozen=True, slots=True)
class Permit2Funding:
    """A transfer by Permit2 whose witness is the channel; a permit that came along may approve it on the way."""

    chain: ChannelChain
    token: Permit2Token
    payload: DepositPayload

    @property
    def _signed(self) -> Permit2Deposit:
        assert isinstance(self.payload.authorization, Permit2Deposit)
        return self.payload.authorization

    @property
    def account(self) -> ChannelConfig:
        return self.payload.config

    @property
    def amount(self) -> int:
        return self.payload.amount

    @property
    def window(self) -> Window:
        return Window(0, self._signed.deadline)

    @property
    def reference(self) -> bytes:
        """Permit2 takes each nonce of a payer once, for all tokens."""
        return keccak256(self.chain.network.encode() + PERMIT2_ADDRESS + self.account.payer + self._signed.nonce)

    def call(self) -> Call:
        return self.chain.escrow.deposit_payload_call(self.payload)

    def why_unproven(self) -> str | None:
        digest = eip712.digest(self.token.domain, self._signed.struct_hash())
        return why_not_by_its_key(self.account.payer, digest, self._signed.signature)

    async def is_used(self, block: Block) -> bool:
        return await self.token.authorization_used(self.account.payer, self._signed.nonce, block)

    async def balance(self, block: Block) -> int:
        return await self.token.balance(self.account.payer, block)

    async def unmet(self, block: Block, now_s: int) -> Refusal | None:
        """What Permit2 may take: by an approval of before, or by the permit."""
        signed = self._signed
        as_payment = Permit2Authorization(
            from_=signed.from_,
            to=self.chain.escrow.address,
            token=signed.token,
            permitted=signed.permitted,
            value=self.amount,
            spender=signed.spender,
            valid_after=0,
            deadline=signed.deadline,
            nonce=signed.nonce,
            signature=signed.signature,
            permit=signed.permit,
        )
        return await approval_refusal(self.chain, self.token, as_payment, block, now_s)

    async def landing(self) -> Landing | None:
        """No event tells which nonce of Permit2 a deposit has used: nobody else's can be told from another."""
        return None
