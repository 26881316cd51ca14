"""The official package's facilitator works on the stand-in as it is: it deposits, claims, settles and refunds.

This is the proof that the stand-in is faithful where the official package looks.
"""

import time
from dataclasses import dataclass
from typing import Any

import pytest
from eth_account import Account
from eth_typing import HexStr
from web3 import HTTPProvider, Web3
from web3.logs import DISCARD
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.batch_settlement import types
from x402.mechanisms.evm.batch_settlement.abi import BATCH_SETTLEMENT_ABI
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.client.eip3009 import create_batch_settlement_eip3009_deposit_payload
from x402.mechanisms.evm.batch_settlement.client.permit2 import create_batch_settlement_permit2_deposit_payload
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.facilitator.scheme import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentPayload, PaymentRequirements

from _anvil import DEV_KEYS
from anvil import NETWORK, Devnet, receiver
from batch_channels import AUTHORIZER, DELAY_S, BatchChannel, approve_permit2, batch_channel, put_batch_settlement
from tallystick.hexadecimal import checksum, to_hex
from tallystick.x402.batch_settlement import BatchSettlementCode
from tallystick.x402.payloads import write_channel_config

NEWS = receiver(1)
PRICE = 100


@dataclass
class Shop:
    """An official facilitator, a channel, and what an official client signs on it."""

    facilitator: BatchSettlementEvmFacilitator
    channel: BatchChannel
    method: str = "eip3009"

    @property
    def signer(self) -> EthAccountSigner:
        return EthAccountSigner(Account.from_key(self.channel.key))

    @property
    def config(self) -> types.ChannelConfig:
        return types.ChannelConfig.from_dict(write_channel_config(self.channel.config))

    @property
    def requirements(self) -> PaymentRequirements:
        extra: dict[str, Any] = {
            "receiverAuthorizer": checksum(AUTHORIZER.address),
            "withdrawDelay": DELAY_S,
            "name": "USD Coin",
            "version": "2",
            "assetTransferMethod": self.method,
        }
        return PaymentRequirements(
            scheme="batch-settlement",
            network=NETWORK,
            amount=str(PRICE),
            asset=checksum(self.channel.config.token),
            pay_to=checksum(NEWS),
            max_timeout_seconds=3_600,
            extra=extra,
        )

    def verify(self, payload: Any) -> Any:
        payment = PaymentPayload(x402_version=2, payload=payload.to_dict(), accepted=self.requirements)
        return self.facilitator.verify(payment, self.requirements)

    def settle(self, payload: Any) -> Any:
        payment = PaymentPayload(x402_version=2, payload=payload.to_dict(), accepted=self.requirements)
        return self.facilitator.settle(payment, self.requirements)

    def deposit(self, amount: int, ceiling: int = PRICE) -> Any:
        make = create_batch_settlement_eip3009_deposit_payload
        if self.method == "permit2":
            make = create_batch_settlement_permit2_deposit_payload
        return make(self.signer, self.requirements, self.config, amount, ceiling)

    def voucher(self, ceiling: int) -> types.VoucherPayload:
        payload = types.VoucherPayload()
        payload.channel_config = self.config
        payload.voucher = sign_voucher(self.signer, to_hex(self.channel.id), ceiling, NETWORK)
        return payload

    def row(self, total: int) -> types.VoucherClaim:
        voucher = sign_voucher(self.signer, to_hex(self.channel.id), total, NETWORK)
        return types.VoucherClaim(self.config, str(total), voucher.signature, str(total))

    def claim(self, total: int) -> types.ClaimPayload:
        payload = types.ClaimPayload()
        payload.claims = [self.row(total)]
        return payload

    def settled_by_event(self, transaction: str) -> list[tuple[str, bytes, int]]:
        """What the official ABI reads in a transaction's events."""
        web3 = Web3(HTTPProvider(self.channel.devnet.anvil.url))
        contract = web3.eth.contract(abi=BATCH_SETTLEMENT_ABI)
        receipt = web3.eth.get_transaction_receipt(HexStr(transaction))
        found = contract.events.Settled().process_receipt(receipt, errors=DISCARD)
        return [(e["event"], bytes.fromhex(e["args"]["receiver"][2:]), e["args"]["amount"]) for e in found]

    def refund(self, amount: int, nonce: int, total: int) -> types.EnrichedRefundPayload:
        payload = types.EnrichedRefundPayload()
        payload.channel_config = self.config
        payload.voucher = sign_voucher(self.signer, to_hex(self.channel.id), total, NETWORK)
        payload.amount, payload.refund_nonce = str(amount), str(nonce)
        payload.claims = [self.row(total)]
        return payload


@pytest.fixture
def shop(devnet: Devnet) -> Shop:
    put_batch_settlement(devnet.anvil)
    channel = batch_channel(devnet, NEWS)
    devnet.anvil.mint(devnet.token, channel.payer.address, 10_000)
    signer = FacilitatorWeb3Signer(to_hex(DEV_KEYS[4]), devnet.anvil.url)
    authorizer = LocalAuthorizerSigner(to_hex(DEV_KEYS[3]))
    return Shop(BatchSettlementEvmFacilitator(signer, authorizer), channel)


@pytest.mark.parametrize("method", ["eip3009", "permit2"])
def test_it_verifies_and_lands_a_deposit(shop: Shop, method: str) -> None:
    shop.method = method
    if method == "permit2":
        approve_permit2(shop.channel)
    deposit = shop.deposit(1_000)
    verified = shop.verify(deposit)
    assert verified.is_valid, verified
    settled = shop.settle(deposit)
    assert settled.success, settled
    assert shop.channel.state == (1_000, 0)
    assert settled.extra["channelState"]["balance"] == "1000"


def test_it_takes_vouchers_up_to_the_balance(shop: Shop) -> None:
    shop.channel.deposit(1_000)
    verified = shop.verify(shop.voucher(1_000))
    assert verified.is_valid, verified
    assert (verified.extra["balance"], verified.extra["totalClaimed"]) == ("1000", "0")
    assert shop.verify(shop.voucher(1_001)).invalid_reason == BatchSettlementCode.CUMULATIVE_EXCEEDS_BALANCE


def test_it_claims_settles_and_refunds(shop: Shop) -> None:
    shop.channel.deposit(1_000)
    claimed = shop.settle(shop.claim(300))
    assert claimed.success, claimed
    assert shop.channel.state == (1_000, 300)
    settled = shop.settle(types.SettlePayload(checksum(NEWS), checksum(shop.channel.config.token)))
    assert settled.success, settled
    # The official signer keeps its web3 to itself, so the amount of the event goes unread there ("best effort").
    assert (settled.amount, shop.channel.received) == ("", 300)
    assert shop.settled_by_event(settled.transaction) == [("Settled", NEWS, 300)]
    # The refund claims what is left first, in one transaction.
    refunded = shop.settle(shop.refund(250, 0, 400))
    assert refunded.success, refunded
    assert shop.channel.state == (750, 400)
    assert refunded.extra["channelState"]["refundNonce"] == "1"


def test_it_sees_a_pending_withdrawal_and_a_refund_that_ends_it(shop: Shop) -> None:
    shop.channel.deposit(1_000)
    shop.channel.initiate_withdraw(500)
    seen = shop.verify(shop.voucher(PRICE)).extra["withdrawRequestedAt"]
    assert abs(seen - time.time()) < 3_600
    refunded = shop.settle(shop.refund(600, 0, 0))
    assert refunded.success, refunded
    assert shop.verify(shop.voucher(PRICE)).extra["withdrawRequestedAt"] == 0


def test_it_reads_the_contracts_refusals(shop: Shop) -> None:
    shop.channel.deposit(1_000)
    refused = shop.settle(shop.claim(1_001))
    assert not refused.success
    assert refused.error_reason == BatchSettlementCode.CLAIM_SIMULATION_FAILED
    stale = shop.settle(shop.refund(5, 7, 0))
    assert not stale.success
    assert stale.error_reason == BatchSettlementCode.REFUND_SIMULATION_FAILED
