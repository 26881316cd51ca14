"""What the wallet says no to, and when.

WalletError                 below TallystickError; nothing was signed for what it speaks of
├── BookUnavailableError    the wallet's file is in use, of another payer or version, or cannot be written
├── BudgetExceededError     the payment would exceed a budget, or what a deposit may hold
├── OfferNotAllowedError    a 402 makes no offer that the allow-list takes
├── DepositNotAllowedError  the account is empty and the wallet was not told to deposit, or not that much, or the
│                           payer's address does not hold that much
├── BalanceTooLowError      the payer's address holds less than a transfer would move
├── Permit2ApprovalError    Permit2 may move less of the token than a payment by it, and no permit can be signed
├── ApprovalRefusedError    the aggregator's totals are above the wallet's own book
├── InsecureOriginError     a page asks for money over plain http, where anybody between could take the payment
├── ChannelDisputedError    a seller counts more on its channel than this wallet has ever signed
├── NoHeadroomError         a grant has too little left for a payment: the wallet has to extend it first
└── BodyNotReplayableError  a request body that can be sent once only, where it may have to be sent twice

ChainError                  below TallystickError; of a withdrawal on chain: the node fails, or the escrow refuses
"""

from tallystick.errors import TallystickError
from tallystick_client.payer.texts import show


class WalletError(TallystickError):
    """The wallet refuses, or cannot; nothing was signed for what it speaks of."""


class BookUnavailableError(WalletError):
    """The wallet's file is in use, belongs to another payer or version, or cannot be written."""


class BudgetExceededError(WalletError):
    """A payment would exceed a budget. `budget` is its name; `got` and `allowed` are in atomic units of the token."""

    def __init__(self, budget: str, got: int, allowed: int, decimals: int, symbol: str) -> None:
        self.budget = budget
        self.got = got
        self.allowed = allowed
        self.decimals = decimals
        self.symbol = symbol
        super().__init__(
            f"budget {budget}: got {show(got, decimals, symbol)}, allowed {show(allowed, decimals, symbol)}"
        )


class OfferNotAllowedError(WalletError):
    """A 402 makes no offer that the wallet may take; `problems` says why for each, in their order."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("no offer of the 402 may be taken: " + ("; ".join(problems) or "it makes none"))


class InsecureOriginError(WalletError):
    """A page asks for money over plain http: whoever is in between could read the payment and take it."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        super().__init__(
            f"{origin} asks for payment: got http, allowed https, loopback, or a transport with require_https=False"
        )


class DepositNotAllowedError(WalletError):
    """The account does not cover a payment and cannot be filled up: the wallet's deposit policy does not let it
    deposit that much, or the payer's address does not hold it.
    """


class BalanceTooLowError(WalletError):
    """The payer's address holds less of the token than a transfer would move, as far as the aggregator can see."""


class Permit2ApprovalError(WalletError):
    """Permit2 may move less of the payer's token than a payment by it, and no permit can be signed along with it; says
    why not, and how to approve.
    """


class ApprovalRefusedError(WalletError):
    """A total that the aggregator wants approved is above the wallet's book; amounts in atomic units."""

    def __init__(self, receiver: str, total: int, book: int) -> None:
        self.receiver = receiver
        self.total = total
        self.book = book
        super().__init__(
            f"the total of receiver {receiver} is not approved: got {total}, allowed {book} by this wallet's own book"
        )


class ChannelDisputedError(WalletError):
    """A seller wants a voucher over more than this wallet has ever signed on their channel, beside the price.

    `told` is what the seller says it has charged, `signed` the most that it can have; in atomic units of the token.
    """

    def __init__(self, channel_id: str, told: int, signed: int) -> None:
        self.channel_id = channel_id
        self.told = told
        self.signed = signed
        super().__init__(
            f"channel {channel_id}: got {told} as what was charged, allowed at most {signed}, the highest voucher of "
            "this wallet; no other was signed. `tallystick wallet withdraw` brings the deposit back"
        )


class NoHeadroomError(WalletError):
    """A grant has too little headroom for a payment, or its time has come: ask the wallet for more."""

    def __init__(self) -> None:
        super().__init__("the grant has no headroom for this payment; ask the wallet for more")


class BodyNotReplayableError(WalletError):
    """A request body that can be sent once only, where the request may have to be sent twice."""


class ChainError(TallystickError):
    """The chain cannot be reached, or the escrow refuses; says which."""
