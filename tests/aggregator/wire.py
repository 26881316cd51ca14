"""What the tests of the edge send: plain objects as protobuf messages."""

from doubles import NETWORK, NEWS, Payer
from marketplace import PRICE
from serving_twin import charge_of

from tallystick.amounts import encode_amount
from tallystick.channels import ChannelConfig
from tallystick.v1 import account_pb2, common_pb2, facilitator_pb2
from tallystick.x402 import ExactAuthorization
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.charging import UncheckedPayment

ALICE = Payer("alice")


def config_of(config: ChannelConfig) -> common_pb2.ChannelConfig:
    return common_pb2.ChannelConfig(
        payer=config.payer,
        payer_authorizer=config.payer_authorizer,
        receiver=config.receiver,
        receiver_authorizer=config.receiver_authorizer,
        token=config.token,
        withdraw_delay_s=config.withdraw_delay_s,
        salt=config.salt,
    )


def terms_of(scheme: str, amount: int = PRICE, pay_to: bytes = NEWS) -> facilitator_pb2.PaymentTerms:
    return facilitator_pb2.PaymentTerms(
        scheme=scheme, network=NETWORK, amount=encode_amount(amount), asset=ALICE.config.token, pay_to=pay_to
    )


def verify_request(payment: UncheckedPayment) -> facilitator_pb2.VerifyRequest:
    deferred = facilitator_pb2.DeferredPayment(config=config_of(ALICE.config.channel(NEWS)), charge=charge_of(payment))
    return facilitator_pb2.VerifyRequest(terms=terms_of("deferred"), deferred=deferred)


def exact_of(transfer: ExactAuthorization) -> facilitator_pb2.ExactPayment:
    return facilitator_pb2.ExactPayment(
        **{"from": transfer.from_},  # type: ignore[arg-type]
        to=transfer.to,
        value=encode_amount(transfer.value),
        valid_after=transfer.valid_after,
        valid_before=transfer.valid_before,
        nonce=transfer.nonce,
        signature=transfer.signature,
    )


def authorization_of(call: SignedCall) -> account_pb2.CallAuthorization:
    return account_pb2.CallAuthorization(deadline=call.deadline, signature=call.signature)
