"""Well-formed inputs, from which fuzzing starts: without them it would spend its time on finding a first byte."""

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tallystick.channels import ChannelConfig
from tallystick.codec.common import write_config
from tallystick.eip712 import escrow_domain
from tallystick.hashing import keccak256
from tallystick.hexadecimal import checksum
from tallystick.payment_ids import format_payment_id, new_payment_id
from tallystick.spend_keys import SpendProof
from tallystick.tokens import Token
from tallystick.v1 import account_pb2, charge_pb2, common_pb2, facilitator_pb2, wallet_pb2
from tallystick.x402 import (
    DeferredPayment,
    DeferredTerms,
    ExactAuthorization,
    ExactTerms,
    Network,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    PaymentTerms,
    deferred_payload,
    encode_json,
    exact_payload,
    payment_identifier_extension,
)
from tallystick_aggregator.ledger import events as ev
from tallystick_aggregator.ledger.ceilings import UsedCeilings
from tallystick_aggregator.ledger.payments import Payment, PaymentStatus, pack_payment
from tallystick_aggregator.ledger.state import (
    Account,
    Approval,
    ChainHead,
    Channel,
    PendingRefund,
    Reservation,
    SpendKey,
)
from tallystick_aggregator.ledger.values import EscrowRef
from tallystick_aggregator.store.events import encode_entry
from tallystick_aggregator.store.rows import (
    encode_account,
    encode_channel,
    encode_head,
    encode_payment,
    encode_reservation,
    encode_spend_key,
)
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.seller.paywall.schemes import scheme_of
from tallystick_client.seller.paywall.schemes.port import Offer
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch, ClaimRow, encode
from tallystick_contracts.events import SIGNATURES

_CHAIN_ID: Final = 31_337
_NETWORK: Final = Network(_CHAIN_ID)
_ADDRESS: Final = [bytes((n,)) * 20 for n in range(8)]
_WORD: Final = [bytes((n,)) * 32 for n in range(8)]
_SIGNATURE: Final = b"\x07" * 64 + b"\x1b"
_ID: Final = new_payment_id(1_800_000_000_000, bytes(range(10)))
_DELAY_S: Final = 86_400
_CONFIG: Final = ChannelConfig(*_ADDRESS[1:6], _DELAY_S, _WORD[6])
_ACCOUNT: Final = ChannelConfig(_ADDRESS[1], _ADDRESS[2], bytes(20), _ADDRESS[4], _ADDRESS[5], _DELAY_S, _WORD[6])
_SPEND: Final = SpendProof(_WORD[1], 1_000, _WORD[2])
_DOMAIN: Final = escrow_domain(_CHAIN_ID, _ADDRESS[7])

OPERATOR: Final = Operator(
    _NETWORK, "127.0.0.1:7402", _ADDRESS[4], _ADDRESS[7], _DELAY_S, (Token(_ADDRESS[5], "USDC", 6, "USD Coin", "2"),)
)
TOPICS: Final = [keccak256(signature.encode()) for signature in SIGNATURES]
_DEFERRED: Final = DeferredTerms(_ADDRESS[7], _ADDRESS[4], _DELAY_S, _DOMAIN.name, _DOMAIN.version)
_EXACT: Final = ExactTerms("USD Coin", "2")


class Log(NamedTuple):
    """A raw log, as `tallystick_contracts.events` takes it."""

    topics: Sequence[bytes]
    data: bytes


def _requirements(scheme: str, extra: dict[str, Any]) -> PaymentRequirements:
    return PaymentRequirements(
        scheme=scheme,
        network=str(_NETWORK),
        amount="1000",
        asset=checksum(_ADDRESS[5]),
        pay_to=checksum(_ADDRESS[3]),
        max_timeout_seconds=60,
        extra=extra,
    )


_OFFERED: Final = [_requirements("deferred", _DEFERRED.extra()), _requirements("exact", _EXACT.extra())]
SHOP_OFFERS: Final = [
    Offer(
        scheme_of(offered.scheme),
        PaymentTerms(offered.scheme, _NETWORK, 1_000, _ADDRESS[5], _ADDRESS[3]),
        offered,
        Token(_ADDRESS[5], "USDC", 6, "USD Coin", "2", 0),
    )
    for offered in _OFFERED
]


def _charge(*, voucher: bool, spend: bool) -> charge_pb2.Charge:
    charge = charge_pb2.Charge(channel_id=_WORD[1], payment_id=_ID, amount=b"\x03\xe8", request_hash=_WORD[2])
    if voucher:
        charge.ceiling, charge.signature = b"\x07\xd0", _SIGNATURE
    if spend:
        charge.spend_proof.CopyFrom(charge_pb2.SpendProof(key_id=_WORD[3], max_amount=b"\x03\xe8", mac=_WORD[4]))
    return charge


def stream_batches() -> list[bytes]:
    """Mixed batches, and batches of charges alike, one of them larger than is allowed."""
    kinds = [_charge(voucher=True, spend=False), _charge(voucher=False, spend=True), _charge(voucher=True, spend=True)]
    mixed = [kinds[: n + 1] for n in range(len(kinds))]
    alike = [[kind] * 2 for kind in kinds] + [[kinds[0]] * 9]
    batches = [charge_pb2.StreamChargesRequest(seq=n, charges=charges) for n, charges in enumerate(mixed + alike)]
    return [batch.SerializeToString() for batch in batches]


def grpc_requests() -> list[bytes]:
    """One of each kind, in the order of `targets._REQUESTS`."""
    config = write_config(_CONFIG)
    account = common_pb2.ChannelConfig()
    account.CopyFrom(config)
    account.receiver = b""
    charge = _charge(voucher=True, spend=True)
    authorization = account_pb2.CallAuthorization(deadline=2_000_000_000, signature=_SIGNATURE)
    terms = facilitator_pb2.PaymentTerms(
        scheme="deferred", network=str(_NETWORK), amount=b"\x03\xe8", asset=_ADDRESS[5], pay_to=_ADDRESS[3]
    )
    requests = [
        charge_pb2.ChargeRequest(charge=charge),
        facilitator_pb2.VerifyRequest(
            terms=terms, deferred=facilitator_pb2.DeferredPayment(config=config, charge=charge)
        ),
        facilitator_pb2.SettleRequest(terms=terms, handle=bytes(64)),
        account_pb2.DepositRequest(
            network=str(_NETWORK),
            account=account,
            amount=b"\x0f",
            valid_before=9,
            salt=_WORD[1],
            signature=_SIGNATURE,
        ),
        account_pb2.GetAccountRequest(account_id=_WORD[1], authorization=authorization),
        account_pb2.ApproveTotalsRequest(
            account_id=_WORD[1],
            totals=[account_pb2.ReceiverTotal(receiver=_ADDRESS[1], total=b"\x09")],
            signature=_SIGNATURE,
        ),
        account_pb2.OpenChannelRequest(network=str(_NETWORK), config=config, authorization=authorization),
    ]
    return [bytes((n,)) + request.SerializeToString() for n, request in enumerate(requests)]


def payments() -> list[bytes]:
    """PaymentPayloads in JSON, of both schemes."""
    deferred = DeferredPayment(_CONFIG, _ID, 2_000, _SIGNATURE, _SPEND, _WORD[1])
    exact = ExactAuthorization(_ADDRESS[1], _ADDRESS[3], 1_000, 0, 2_000_000_000, _WORD[3], _SIGNATURE)
    return [
        encode_json(
            PaymentPayload(
                payload=deferred_payload(deferred),
                accepted=_OFFERED[0],
                extensions=payment_identifier_extension(deferred.payment_id),
            )
        ),
        encode_json(PaymentPayload(payload=exact_payload(exact), accepted=_OFFERED[1])),
    ]


def http_requests() -> list[bytes]:
    """What is posted to /verify and /settle: both schemes, and a request of version 1."""
    posted = [
        {"x402Version": 2, "paymentPayload": payload, "paymentRequirements": payload["accepted"]}
        for payload in map(json.loads, payments())
    ]
    old = {"x402Version": 1, "paymentPayload": {"scheme": "exact"}, "paymentRequirements": {"network": "base"}}
    return [json.dumps(request).encode() for request in (*posted, old)]


def offers() -> list[bytes]:
    """402s in JSON, with both schemes and with one."""
    return [encode_json(PaymentRequired(accepts=accepts)) for accepts in (_OFFERED, _OFFERED[:1], _OFFERED[1:])]


def claim_batches() -> list[bytes]:
    """A batch of no account, one of two accounts by voucher and by approval."""
    by_voucher = AccountClaim(_ADDRESS[1], _ADDRESS[2], _DELAY_S, _WORD[1], (ClaimRow(_ADDRESS[3], 5, 9, _SIGNATURE),))
    by_approval = AccountClaim(
        _ADDRESS[1], _ADDRESS[2], _DELAY_S, _WORD[2], (ClaimRow(_ADDRESS[4], 5, 5, None),), _SIGNATURE
    )
    return [
        encode(ClaimBatch(_ADDRESS[6], _ADDRESS[5], accounts))
        for accounts in ((), (by_voucher,), (by_voucher, by_approval))
    ]


def logs() -> list[bytes]:
    """Every event, with words that could be anything small."""
    small = bytes(31) + b"\x20"
    return [
        bytes((n, topics)) + small * (topics + words) for n in range(len(TOPICS)) for topics, words in ((1, 3), (3, 5))
    ]


def journal_entries() -> list[bytes]:
    """Events of most kinds, without the header, which is put before them."""
    handle = _ID + _WORD[1] + bytes(16)
    events: list[ev.Event] = [
        ev.AccountOpened(_WORD[1], EscrowRef(str(_NETWORK), _ADDRESS[5]), _ACCOUNT),
        ev.AccountMirrored(_WORD[1], 10**6, 0, 0),
        ev.ChannelOpened(_WORD[2], _WORD[1], _ADDRESS[3], 0),
        ev.CeilingRaised(_WORD[2], 2_000, _SIGNATURE),
        ev.Charged(_WORD[2], _ID, 1_000, _WORD[3], 2_000, b""),
        ev.Charged(_WORD[2], _ID, 1_000, _WORD[3], 0, _WORD[4]),
        ev.ChannelClaimed(_WORD[2], 1_000),
        ev.Released(handle),
        ev.SpendKeyRegistered(_WORD[1], _WORD[4], _WORD[5], 10**6, 2_000_000_000),
        ev.TotalsApproved(_WORD[1], ((_ADDRESS[3], 1_000),), _SIGNATURE),
        ev.ChainAdvanced(EscrowRef(str(_NETWORK), _ADDRESS[5]), 7, _WORD[6]),
        ev.PaymentsForgotten(1_800_000_000_000),
    ]
    return [encode_entry([event])[5:] for event in events] + [encode_entry(events)[5:]]


def rpc_answers() -> list[bytes]:
    """One of each kind, in the order of `targets._ANSWERS`."""
    word, address = "0x" + "1a" * 32, "0x" + "2b" * 20
    log = {"address": address, "topics": [word, word], "data": "0x00ff", "blockNumber": "0x10"}
    receipt = {
        "transactionHash": word,
        "blockNumber": "0x10",
        "blockHash": word,
        "status": "0x1",
        "gasUsed": "0x5208",
        "effectiveGasPrice": "0x3b9aca00",
        "logs": [log],
    }
    block = {"number": "0x10", "hash": word, "timestamp": "0x6b49d200", "baseFeePerGas": "0x7", "transactions": []}
    with_transactions = block | {"transactions": [{"hash": word, "from": address, "nonce": "0x0"}]}
    error = {"code": 3, "message": "execution reverted", "data": {"data": "0x08c379a0"}}
    answers = ["0x00ff", "0x10", block, block, with_transactions, [log], receipt, error, None]
    return [bytes((n,)) + json.dumps(answer).encode() for n, answer in enumerate(answers)]


def journal_rows() -> list[bytes]:
    """A row of each table, in the order of `targets._ROWS`, without its checksum."""
    key = b"\x01" * 48
    handle = key + bytes(16)
    reserved = pack_payment(key, Payment(1_000, _WORD[1], PaymentStatus.RESERVED, 0, 0, handle))
    account = Account(_WORD[1], str(_NETWORK), _ACCOUNT)
    account.refund = PendingRefund(_WORD[2], 3, 50)
    account.approval = Approval(((_ADDRESS[3], 1_000),), _SIGNATURE)
    channel = Channel(_WORD[1], _WORD[2], _ADDRESS[3], 2_000, _SIGNATURE, 1_000, 0, 0)
    channel.used = UsedCeilings(floor=5).plus(1_000, 2_000)
    rows = [
        encode_payment(key, pack_payment(key, Payment(1_000, _WORD[1], PaymentStatus.CHARGED, 0, 1_000, b""))),
        encode_channel(channel),
        encode_account(account),
        encode_spend_key(b"\x01" * 64, SpendKey(_WORD[1], _WORD[1], _WORD[3], 10**6, 2_000_000_000, 5, revoked=False)),
        encode_reservation(Reservation(handle, key[16:], key[:16], 1_000, b"", 2_000_000_000), reserved),
        encode_head(b"\1" * 12, ChainHead(7, _WORD[4])),
    ]
    return [bytes((n,)) + row[:-4] for n, row in enumerate(rows)]


def texts() -> list[bytes]:
    """One of each kind."""
    lines = ["0", "1000", str(2**128 - 1), "0.001 USDC", checksum(_ADDRESS[7]), "0x" + "0a" * 32]
    return [line.encode() for line in (*lines, format_payment_id(_ID), str(_NETWORK), json.dumps("é"))]


def wallet_messages() -> list[bytes]:
    """One of each kind, in the order of `targets._WALLET_MESSAGES`."""
    token = facilitator_pb2.Asset(token=_ADDRESS[5], symbol="USDC", decimals=6, name="USD Coin", version="2")
    messages = [
        wallet_pb2.WalletProblem(
            kind=1, message="no", budget="per_day", got=b"\x09", allowed=b"\x08", symbol="USDC", decimals=6
        ),
        wallet_pb2.DescribeResponse(
            payer=_ADDRESS[1],
            operators=[
                wallet_pb2.PayerTerms(
                    network=str(_NETWORK),
                    aggregator=OPERATOR.aggregator,
                    operator=OPERATOR.operator,
                    escrow=OPERATOR.escrow,
                    withdraw_delay_s=_DELAY_S,
                    tokens=[token],
                    per_request=[b"\x09"],
                )
            ],
        ),
        wallet_pb2.Payee(
            network=str(_NETWORK),
            operator=OPERATOR.operator,
            escrow=OPERATOR.escrow,
            token=_ADDRESS[5],
            receiver=_ADDRESS[3],
            host="shop",
        ),
        facilitator_pb2.ExactPayment(
            **{"from": _ADDRESS[1]}, to=_ADDRESS[3], value=b"\x09", valid_before=9, nonce=_WORD[1], signature=_SIGNATURE
        ),
    ]
    return [bytes((n,)) + message.SerializeToString() for n, message in enumerate(messages)]
