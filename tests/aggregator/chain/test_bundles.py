"""Signed approvals that are paid for (erc20_gas_sponsoring.md), on a chain with a builder of our own."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from harness import Side, chain_side
from hexbytes import HexBytes
from httpx2 import AsyncClient
from hypothesis import given
from hypothesis import strategies as st
from rpc_servers import Endpoint, JsonRpcError
from x402.extensions.erc20_approval_gas_sponsoring.client import sign_erc20_approval_transaction

import site_files
from _anvil import Anvil, hexed
from anvil import CHAIN_ID, NETWORK, Devnet, deploy, receiver
from tallystick import eip712
from tallystick.eip712 import ESCROW_NAME, ESCROW_VERSION, PERMIT2_ADDRESS, permit2_domain
from tallystick.facilitator import Settled, Verified
from tallystick.hexadecimal import checksum
from tallystick.reasons import Reason
from tallystick.signatures import ORDER, Signer
from tallystick.x402 import (
    ERC20_APPROVAL_GAS_SPONSORING,
    SCHEME_EXACT,
    Network,
    PaymentTerms,
    Permit2Authorization,
    SignedApproval,
    approval_extension,
    permit2_payload,
)
from tallystick_aggregator.accounts.offers import EscrowOffer
from tallystick_aggregator.chain.approval_transactions import APPROVE_SELECTOR, read_approval
from tallystick_aggregator.chain.bundle_port import Bundle
from tallystick_aggregator.chain.port import Call, ChainUnavailableError, PaymentIdTakenError, Send
from tallystick_aggregator.chain.rpc.answers import read_outcomes
from tallystick_aggregator.chain.sending.bundle_memo import pack_bundle, unpack_bundle
from tallystick_aggregator.chain.settings import BundleSettings
from tallystick_aggregator.ledger.answers import Refusal
from tallystick_aggregator.runtime.app import running
from tallystick_aggregator.runtime.config.file import Config
from tallystick_aggregator.schemes.exact import ExactPayments
from tallystick_aggregator.schemes.exact.approvals import APPROVAL_GAS_MAX, BUNDLE_S_MAX
from tallystick_aggregator.store.memory import MemoryDisk
from tallystick_aggregator.store.port import TransactionKind, TransactionStatus
from tallystick_chain.fees import Bid
from tallystick_chain.transactions import Unsigned, sign

NEWS = receiver(1)
VALUE = 1_000
EVERYTHING = 2**256 - 1
GWEI = 10**9
BUNDLER = Signer(site_files.STRANGER_KEY)
PAYER = Signer(sha256(b"a payer without coin").digest())


class Builder:
    """Puts each bundle into one block, in its order; or none of it, if anything in it fails."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet = devnet
        self.offered: list[dict[str, Any]] = []
        self.takes = True
        self.endpoint = Endpoint(self._answer)

    def _answer(self, method: str, params: list[Any]) -> Any:
        assert method == "eth_sendBundle"
        self.offered.append(params[0])
        if not self.takes:
            raise JsonRpcError({"code": -32000, "message": "no bundles today"})
        self.include(params[0]["txs"])
        return {"bundleHash": "0x" + "00" * 32}

    def include(self, transactions: list[str]) -> None:
        anvil = self.devnet.anvil
        before = anvil.snapshot()
        anvil.automine(on=False)
        try:
            hashes = [anvil.rpc("eth_sendRawTransaction", raw) for raw in transactions]
            anvil.mine()
            receipts = [anvil.rpc("eth_getTransactionReceipt", one) for one in hashes]
            if not all(receipt and receipt["status"] == "0x1" for receipt in receipts):
                anvil.revert(before)
                raise JsonRpcError({"code": -32000, "message": "the bundle reverts"})
            assert len({receipt["blockNumber"] for receipt in receipts}) == 1
            assert [int(receipt["transactionIndex"], 16) for receipt in receipts] == [*range(len(receipts))]
        finally:
            anvil.automine(on=True)


@dataclass
class Stall:
    """A chain with Permit2 and a builder, and a payer with tokens, without coin and without an approval."""

    devnet: Devnet
    builder: Builder
    builder_url: str
    token: bytes
    until_s: int = field(default_factory=lambda: int(time.time()) + 300)
    later_s: int = 0

    def clock(self) -> float:
        return time.time() + self.later_s

    def wait(self, seconds: int) -> None:
        """Let so much time pass for everybody."""
        self.later_s += seconds
        self.devnet.anvil.advance(seconds)

    def payment(self, number: int = 0, approval: bytes | None = None, **changes: Any) -> Permit2Authorization:
        raw = self.approval() if approval is None else approval
        payment = Permit2Authorization(
            from_=PAYER.address,
            to=NEWS,
            token=self.token,
            permitted=VALUE,
            value=VALUE,
            spender=eip712.EXACT_PERMIT2_PROXY_ADDRESS,
            valid_after=0,
            deadline=self.until_s,
            nonce=sha256(b"payment %d" % number).digest(),
            signature=b"",
            offers_approval=True,
            approval=SignedApproval(PAYER.address, self.token, PERMIT2_ADDRESS, EVERYTHING, raw),
        )
        payment = replace(payment, **changes)
        return replace(payment, signature=PAYER.sign(eip712.digest(permit2_domain(CHAIN_ID), payment.struct_hash())))

    def approval(
        self, signer: Signer = PAYER, offer: Bid | None = None, amount: int = EVERYTHING, **changes: Any
    ) -> bytes:
        """The payer's transaction; `changes` are made before it is signed."""
        data = APPROVE_SELECTOR + encode(["address", "uint256"], [PERMIT2_ADDRESS, amount])
        unsigned = Unsigned(CHAIN_ID, 0, 70_000, self.token, data)._replace(**changes)
        return sign(signer, unsigned, offer or Bid(self.base_fee() * 2, self.base_fee())).raw

    def base_fee(self) -> int:
        return int(self.devnet.anvil.rpc("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)

    def terms(self, max_timeout_s: int = 20) -> PaymentTerms:
        return PaymentTerms(
            SCHEME_EXACT, Network.parse(NETWORK, "network"), VALUE, self.token, NEWS, max_timeout_s=max_timeout_s
        )

    def received(self) -> int:
        return self.devnet.anvil.token_balance(self.token, NEWS)

    def coin(self, holder: bytes) -> int:
        return int(self.devnet.anvil.rpc("eth_getBalance", hexed(holder), "latest"), 16)


@pytest.fixture(scope="module")
def builders_chain() -> Iterator[Devnet]:
    """One that keeps the order in which it was given transactions, as a builder does."""
    with Anvil(options=("--order", "fifo", "--disable-pool-balance-checks")) as anvil:
        yield deploy(anvil)


@pytest.fixture
async def stall(builders_chain: Devnet) -> AsyncIterator[Stall]:
    devnet = builders_chain
    snapshot = devnet.anvil.snapshot()
    devnet.put_permit2()
    token = devnet.anvil.deploy_contract("TestUSDC")
    devnet.anvil.mint(token, PAYER.address, 10 * VALUE)
    devnet.anvil.set_ether(BUNDLER.address, 10**18)
    builder = Builder(devnet)
    url = await builder.endpoint.start()
    try:
        yield Stall(devnet, builder, url, token)
    finally:
        await builder.endpoint.stop()
        devnet.anvil.automine(on=True)
        devnet.anvil.revert(snapshot)


@asynccontextmanager
async def opened(
    stall: Stall, *, with_builder: bool = True, disk: MemoryDisk | None = None
) -> AsyncIterator[tuple[ExactPayments, Side]]:
    """`disk` of before: a restart."""
    devnet = stall.devnet
    settings = replace(devnet.token_settings, address=stall.token, by_permit2=True)
    bundles = BundleSettings(stall.builder_url, BUNDLER) if with_builder else None
    async with chain_side(devnet, disk=disk, clock=stall.clock, tokens=(settings,), bundles=bundles) as side:
        offer = EscrowOffer(
            NETWORK,
            devnet.escrow,
            ESCROW_NAME,
            ESCROW_VERSION,
            devnet.operator.address,
            {stall.token: settings},
            900,
            2**20,
            86_400,
        )
        yield ExactPayments({offer.ref: side.chain}, {offer.ref: offer}, side.outbox, lambda: int(stall.clock())), side


async def test_a_payer_without_coin_approves_and_pays_in_one_block(stall: Stall) -> None:
    async with opened(stall) as (exact, side):
        (kind,) = [kind for kind in await exact.kinds() if kind.extensions]
        assert kind.extensions == (ERC20_APPROVAL_GAS_SPONSORING,)
        payment = stall.payment()
        assert await exact.verify(stall.terms(), payment) == Verified(PAYER.address)
        assert stall.builder.offered == []
        before = stall.coin(BUNDLER.address)
        settled = await exact.settle(stall.terms(), payment)
        assert isinstance(settled, Settled), settled
        assert stall.received() == VALUE
        (bundle,) = stall.builder.offered
        assert len(bundle["txs"]) == 3
        assert bundle["maxTimestamp"] == payment.deadline
        assert before - stall.coin(BUNDLER.address) < 10**15
        assert stall.coin(PAYER.address) < 70_000 * 2 * stall.base_fee() * 2
        assert (await exact.settle(stall.terms(), payment)) == replace(settled, replayed=True)
        assert len(stall.builder.offered) == 1
        second = await exact.settle(stall.terms(), stall.payment(1))
        assert isinstance(second, Settled), "Permit2 is approved now"
        assert len(stall.builder.offered) == 1
        assert side.chain.problems() == []


class OfficialSigner:
    """What the official SDK asks of a payer's signer."""

    def __init__(self, stall: Stall) -> None:
        self.stall, self.account = stall, Account.from_key(sha256(b"a payer without coin").digest())
        self.address = self.account.address

    def get_transaction_count(self, address: str) -> int:
        return int(self.stall.devnet.anvil.rpc("eth_getTransactionCount", address, "latest"), 16)

    def estimate_fees_per_gas(self) -> tuple[int, int]:
        return self.stall.base_fee() * 2, self.stall.base_fee()

    def sign_transaction(self, transaction: dict[str, Any]) -> str:
        return hexed(bytes(self.account.sign_transaction(transaction).raw_transaction))


async def test_an_approval_by_the_official_sdk_is_taken(stall: Stall) -> None:
    made: Any = sign_erc20_approval_transaction(OfficialSigner(stall), checksum(stall.token), CHAIN_ID)
    async with opened(stall) as (exact, _):
        payment = stall.payment(approval=bytes.fromhex(made.signed_transaction[2:]))
        assert isinstance(await exact.settle(stall.terms(), payment), Settled)
        assert stall.received() == VALUE


async def test_a_payer_with_coin_is_sent_no_gas_money(stall: Stall) -> None:
    stall.devnet.anvil.set_ether(PAYER.address, 10**18)
    async with opened(stall) as (exact, _):
        assert isinstance(await exact.settle(stall.terms(), stall.payment()), Settled)
        assert len(stall.builder.offered[0]["txs"]) == 2


async def test_a_bundle_that_is_not_taken_is_offered_until_it_lands_and_is_in_no_pool(stall: Stall) -> None:
    stall.builder.takes = False
    async with opened(stall) as (exact, side):
        pending = await exact.settle(stall.terms(1), stall.payment())
        assert isinstance(pending, Refusal)
        assert pending.reason is Reason.TRANSACTION_PENDING
        assert stall.devnet.anvil.rpc("txpool_status") == {"pending": "0x0", "queued": "0x0"}
        assert stall.coin(PAYER.address) == 0
        assert any("no bundles today" in problem for problem in side.chain.problems())
        busy = await exact.settle(stall.terms(1), stall.payment(1))
        assert isinstance(busy, Refusal)
        assert (busy.reason, busy.reason.retry) == (Reason.OVERLOADED, True)
        stall.builder.takes = True
        assert isinstance(await exact.settle(stall.terms(), stall.payment()), Settled)
        assert stall.received() == VALUE


async def test_a_bundle_is_offered_again_after_a_restart(stall: Stall) -> None:
    stall.builder.takes = False
    async with opened(stall) as (exact, side):
        await exact.settle(stall.terms(1), stall.payment())
        disk = side.disk
    stall.builder.takes = True
    async with opened(stall, disk=disk) as (exact, _):
        assert isinstance(await exact.settle(stall.terms(), stall.payment()), Settled)
    assert len({tuple(offered["txs"]) for offered in stall.builder.offered}) == 1, "the bytes are journaled"


async def test_the_next_bundle_takes_the_nonces_of_one_that_can_settle_no_more(stall: Stall) -> None:
    stall.builder.takes = False
    stall.until_s = int(time.time()) + 60
    async with opened(stall) as (exact, side):
        first = await exact.settle(stall.terms(1), stall.payment())
        assert isinstance(first, Refusal)
        (sent,) = await side.outbox.open(NETWORK)
        stall.wait(61)
        stall.until_s += 300
        stall.builder.takes = True
        assert isinstance(await exact.settle(stall.terms(), stall.payment(1)), Settled)
        known = await side.outbox.by_reference(sent.kind, sent.reference)
        assert known is not None
        assert known.status in {TransactionStatus.PENDING, TransactionStatus.SUPERSEDED}
        assert stall.received() == VALUE


async def test_a_bundle_ends_with_its_deadline(stall: Stall) -> None:
    """Its payment is told as expired, and its payer's money is not held back for it."""
    stall.builder.takes = False
    stall.until_s = int(time.time()) + 60
    async with opened(stall) as (exact, side):
        payment = stall.payment()
        pending = await exact.settle(stall.terms(1), payment)
        assert isinstance(pending, Refusal)
        assert side.chain.gas.leaving(PAYER.address, stall.token)
        stall.wait(61)
        for _ in range(side.chain.settings.confirmations + 1):
            stall.devnet.anvil.mine()
        for _ in range(20):
            told = await exact.settle(stall.terms(1), payment)
            assert isinstance(told, Refusal)
            if told.reason is not Reason.TRANSACTION_PENDING:
                break
        assert told.reason is Reason.EXACT_EXPIRED
        assert not await side.outbox.open(NETWORK)
        assert not side.chain.gas.leaving(PAYER.address, stall.token)
        assert stall.received() == 0


async def test_a_bundle_is_signed_with_the_nonces_of_the_newest_block(
    stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that comes during its simulation may hold the bundle before it."""
    anvil = stall.devnet.anvil

    def nonce() -> int:
        return int(anvil.rpc("eth_getTransactionCount", hexed(BUNDLER.address), "latest"), 16)

    async with opened(stall) as (exact, side):
        bundles: Any = side.chain.bundles
        simulate = bundles.simulate

        async def simulated_while_another_lands(*arguments: Any, **keywords: Any) -> int:
            gas = int(await simulate(*arguments, **keywords))
            unsigned = Unsigned(CHAIN_ID, nonce(), 21_000, BUNDLER.address, b"")
            other = sign(BUNDLER, unsigned, Bid(stall.base_fee() * 2, stall.base_fee()))
            anvil.rpc("eth_sendRawTransaction", hexed(other.raw))
            anvil.mine()
            assert nonce() == unsigned.nonce + 1
            return gas

        monkeypatch.setattr(bundles, "simulate", simulated_while_another_lands)
        assert isinstance(await exact.settle(stall.terms(), stall.payment()), Settled)
        assert stall.received() == VALUE


async def test_a_bundle_takes_no_identifier_of_another_payment(stall: Stall) -> None:
    stall.builder.takes = False
    async with opened(stall) as (_, side):
        bundles: Any = side.chain.bundles
        other = Send(TransactionKind.EXACT, b"other" * 4, Call(stall.token, b""), payment_id=b"named")
        draft = bundles._draft(other, 21_000, Bid(GWEI, GWEI), 0)
        await side.outbox.add(replace(draft, status=TransactionStatus.FINAL))
        payment = stall.payment()
        transaction = read_approval(stall.approval())
        assert transaction is not None
        token = side.chain.permit2_tokens[stall.token]
        send = Send(TransactionKind.EXACT, b"mine" * 5, token.transfer_call(payment), payment_id=b"named")
        bundle = Bundle(PAYER.address, transaction, transaction.cost_wei)
        with pytest.raises(PaymentIdTakenError):
            await bundles.send(send, bundle, payment.deadline)
        assert stall.builder.offered == []


async def test_without_a_builder_it_is_refused_as_ever(stall: Stall) -> None:
    async with opened(stall, with_builder=False) as (exact, _):
        assert not any(kind.extensions for kind in await exact.kinds())
        refusal = await exact.verify(stall.terms(), stall.payment())
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.PERMIT2_ALLOWANCE_REQUIRED


OTHER = Signer(sha256(b"somebody else").digest())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"signer": OTHER}, "signer"),
        ({"chain_id": 1}, "chainId"),
        ({"to": NEWS}, "to"),
        ({"value": 1}, "value"),
        ({"amount": 7}, "data"),
        ({"data": b""}, "data"),
        ({"nonce": 1}, "nonce"),
        ({"gas_limit": APPROVAL_GAS_MAX + 1}, "gas"),
        ({"offer": Bid(1, 1)}, "maxFeePerGas"),
        ({"offer": Bid(10_000 * GWEI, 1)}, "maxFeePerGas"),
        ({"offer": Bid(GWEI, 2 * GWEI)}, "maxPriorityFeePerGas"),
    ],
)
async def test_an_approval_that_does_anything_else_is_refused_by_name(
    stall: Stall, changes: dict[str, Any], name: str
) -> None:
    async with opened(stall) as (exact, side):
        payment = stall.payment(approval=stall.approval(**changes))
        for ask in (exact.verify, exact.settle):
            refusal = await ask(stall.terms(), payment)
            assert isinstance(refusal, Refusal)
            assert (refusal.reason, f"another {name} " in refusal.message) == (Reason.PERMIT2_PERMIT, True), refusal
            assert refusal.code == "invalid_erc20_approval_extension_format"
        assert await side.outbox.open(NETWORK) == []
        assert stall.builder.offered == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"\x01" + raw[1:],
        lambda raw: raw[:-1],
        lambda raw: raw + b"\x00",
        lambda _: b"\x02",
        lambda _: b"\x02\xc0",
    ],
)
async def test_what_is_no_transaction_is_refused(stall: Stall, spoil: Any) -> None:
    async with opened(stall) as (exact, _):
        refusal = await exact.verify(stall.terms(), stall.payment(approval=spoil(stall.approval())))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.PERMIT2_PERMIT


async def test_an_approval_of_another_payer_token_or_spender_is_refused(stall: Stall) -> None:
    async with opened(stall) as (exact, _):
        right = stall.payment()
        assert right.approval is not None
        for changes, name in (
            ({"owner": NEWS}, "from"),
            ({"token": NEWS}, "asset"),
            ({"spender": NEWS}, "spender"),
            ({"amount": VALUE - 1}, "amount"),
        ):
            wrong = replace(right, approval=replace(right.approval, **changes))  # type: ignore[arg-type]
            refusal = await exact.verify(stall.terms(), wrong)
            assert isinstance(refusal, Refusal)
            assert refusal.field == f"extensions.erc20ApprovalGasSponsoring.info.{name}"


async def test_a_payment_that_is_valid_for_long_is_refused(stall: Stall) -> None:
    stall.until_s = int(time.time()) + BUNDLE_S_MAX + 60
    async with opened(stall) as (exact, _):
        refusal = await exact.verify(stall.terms(), stall.payment())
        assert isinstance(refusal, Refusal)
        assert (refusal.reason, refusal.field) == (Reason.PERMIT2_PERMIT, "deadline")


async def test_a_payer_with_code_is_sent_no_gas_money(stall: Stall) -> None:
    stall.devnet.anvil.rpc("anvil_setCode", hexed(PAYER.address), "0xef0100" + "11" * 20)
    async with opened(stall) as (exact, _):
        refusal = await exact.verify(stall.terms(), stall.payment())
        assert isinstance(refusal, Refusal)
        assert refusal.field == "from"


async def test_a_payment_that_another_key_signed_is_not_bundled(stall: Stall) -> None:
    async with opened(stall) as (exact, _):
        forged = replace(stall.payment(), signature=stall.payment(1).signature)
        refusal = await exact.settle(stall.terms(), forged)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.EXACT_SIGNATURE
        assert stall.builder.offered == []


async def test_a_bundle_sender_without_money_sends_nothing(stall: Stall) -> None:
    async with opened(stall) as (exact, side):
        stall.devnet.anvil.set_ether(BUNDLER.address, 10**9)
        refusal = await exact.settle(stall.terms(), stall.payment())
        assert isinstance(refusal, Refusal)
        assert refusal.reason.retry or refusal.reason is Reason.SIMULATION_FAILED
        assert await side.outbox.open(NETWORK) == []


async def test_over_http_it_is_offered_verified_and_settled(stall: Stall, tmp_path: Path) -> None:
    config = site_files.write_site(
        tmp_path,
        stall.devnet,
        http={"listen": "127.0.0.1:0"},
        chain={"bundle_url": stall.builder_url, "bundle_sender_key": "file:stranger.key"},
        token={"address": checksum(stall.token), "transfer_methods": ["eip3009", "permit2"]},
    )
    headers = {"authorization": f"Bearer {site_files.add_seller(config, 'news', [NEWS])}"}
    payment = stall.payment()
    assert payment.approval is not None
    asked = {
        "scheme": "exact",
        "network": NETWORK,
        "amount": str(VALUE),
        "asset": checksum(stall.token),
        "payTo": checksum(NEWS),
        "maxTimeoutSeconds": 30,
        "extra": {"assetTransferMethod": "permit2", "name": "USD Coin", "version": "2"},
    }
    paid = {
        "x402Version": 2,
        "accepted": asked,
        "payload": permit2_payload(payment),
        "extensions": approval_extension(payment.approval),
    }
    body = json.dumps({"x402Version": 2, "paymentPayload": paid, "paymentRequirements": asked})
    async with (
        running(Config.load(config)) as aggregator,
        AsyncClient(base_url=aggregator.http_url, headers=headers, timeout=40) as client,
    ):
        supported = (await client.get("/supported")).json()
        assert ERC20_APPROVAL_GAS_SPONSORING in supported["extensions"]
        assert (await client.post("/verify", content=body)).json() == {
            "isValid": True,
            "payer": checksum(PAYER.address),
        }
        settled = (await client.post("/settle", content=body)).json()
    assert settled["success"], settled
    assert stall.received() == VALUE


@given(st.binary(max_size=300), st.integers(0, 2**63), st.binary(max_size=300), st.binary(min_size=1, max_size=300))
def test_a_bundle_is_read_from_its_memo_as_it_was_written(
    memo: bytes, until: int, fund: bytes, approval: bytes
) -> None:
    assert unpack_bundle(pack_bundle(memo, until, fund, approval)) == (memo, until, fund, approval)


def test_a_memo_without_a_bundle_stays_as_it_is() -> None:
    for memo in (b"", b"\x01" + bytes(64), b"\x01" + bytes(128)):
        assert unpack_bundle(memo).memo == memo


@given(st.binary(max_size=200))
def test_no_bytes_of_an_approval_raise_anything(content: bytes) -> None:
    assert read_approval(content) is None
    assert read_approval(b"\x02" + content) is None


def test_an_approval_with_a_signature_that_the_chain_does_not_take_is_none() -> None:
    raw = sign(PAYER, Unsigned(CHAIN_ID, 0, 70_000, NEWS, b""), Bid(2, 1)).raw
    assert read_approval(raw) is not None
    fields = dict(TypedTransaction.from_bytes(HexBytes(raw)).as_dict())
    high = {**fields, "s": ORDER - int(fields["s"]), "v": 1 - int(fields["v"])}
    assert read_approval(bytes(TypedTransaction.from_dict(high).encode())) is None
    listed = {**fields, "accessList": [{"address": "0x" + "11" * 20, "storageKeys": []}]}
    assert read_approval(bytes(TypedTransaction.from_dict(listed).encode())) is None


@pytest.mark.parametrize(
    "answer",
    [None, [], [{}], [{"calls": [{}]}], [{"calls": [{"status": "0x1"}]}], [{"calls": []}, {"calls": []}], "0x"],
)
def test_outcomes_of_another_form_are_no_answer(answer: Any) -> None:
    with pytest.raises(ChainUnavailableError):
        read_outcomes(answer)
