"""The wallet's own gRPC messages as bytes and integers, and its problems as exceptions, both ways."""

from typing import Final, Literal, NamedTuple, Protocol

import grpc

from tallystick.amounts import decode_amount, encode_amount
from tallystick.codec.common import fixed, not_zero, read_network, read_refusal, write_refusal
from tallystick.codec.facilitator import read_token, write_token
from tallystick.errors import Described, MalformedError, RefusedError, TallystickError
from tallystick.tokens import DECIMALS_MAX
from tallystick.v1 import wallet_pb2 as pb
from tallystick_client.payer.errors import (
    BalanceTooLowError,
    BookUnavailableError,
    BudgetExceededError,
    DepositNotAllowedError,
    OfferNotAllowedError,
    WalletError,
)
from tallystick_client.payer.policy.offers import Seller
from tallystick_client.payer.policy.operators import Operator
from tallystick_client.rpc import AggregatorUnavailableError

HOST_CHARS_MAX: Final = 255

_KINDS: Final[tuple[tuple[type[TallystickError], pb.WalletProblemKind.ValueType], ...]] = (
    (BudgetExceededError, pb.WALLET_PROBLEM_KIND_BUDGET_EXCEEDED),
    (DepositNotAllowedError, pb.WALLET_PROBLEM_KIND_DEPOSIT_NOT_ALLOWED),
    (BalanceTooLowError, pb.WALLET_PROBLEM_KIND_BALANCE_TOO_LOW),
    (RefusedError, pb.WALLET_PROBLEM_KIND_AGGREGATOR_REFUSED),
    (AggregatorUnavailableError, pb.WALLET_PROBLEM_KIND_AGGREGATOR_UNAVAILABLE),
    (BookUnavailableError, pb.WALLET_PROBLEM_KIND_BOOK_UNAVAILABLE),
    (OfferNotAllowedError, pb.WALLET_PROBLEM_KIND_OFFER_NOT_ALLOWED),
)


class WalletTerms(NamedTuple):
    """What a wallet says about itself to its workers; amounts in atomic units."""

    payer: bytes
    operators: tuple[Operator, ...]
    deferred: frozenset[tuple[Operator, bytes]]
    per_request: dict[tuple[Operator, bytes], int]
    allows_exact: bool
    max_headroom: int
    report_every_s: float


def write_problem(error: TallystickError) -> pb.WalletProblem:
    """An error as a worker is told of it."""
    kind = next((kind for type_, kind in _KINDS if isinstance(error, type_)), pb.WALLET_PROBLEM_KIND_UNSPECIFIED)
    problem = pb.WalletProblem(kind=kind, message=str(error))
    if isinstance(error, BudgetExceededError):
        problem.budget, problem.decimals, problem.symbol = error.budget, error.decimals, error.symbol
        problem.got, problem.allowed = encode_amount(error.got), encode_amount(error.allowed)
    if isinstance(error, RefusedError):
        told = error.reason, error.message, error.field, error.got, error.allowed, None, error.retry_after_s
        problem.refusal.CopyFrom(write_refusal(*told))
    return problem


def read_problem(problem: pb.WalletProblem) -> TallystickError:
    """The same error again, in the worker."""
    match problem.kind:
        case pb.WALLET_PROBLEM_KIND_BUDGET_EXCEEDED:
            got = decode_amount(problem.got, "problem.got")
            allowed = decode_amount(problem.allowed, "problem.allowed")
            if problem.decimals > DECIMALS_MAX:
                raise MalformedError("problem.decimals", problem.decimals, f"from 0 to {DECIMALS_MAX}")
            return BudgetExceededError(problem.budget, got, allowed, problem.decimals, problem.symbol)
        case pb.WALLET_PROBLEM_KIND_DEPOSIT_NOT_ALLOWED:
            return DepositNotAllowedError(problem.message)
        case pb.WALLET_PROBLEM_KIND_BALANCE_TOO_LOW:
            return BalanceTooLowError(problem.message)
        case pb.WALLET_PROBLEM_KIND_AGGREGATOR_REFUSED:
            return read_refusal(problem.refusal)
        case pb.WALLET_PROBLEM_KIND_AGGREGATOR_UNAVAILABLE:
            return AggregatorUnavailableError(problem.message, grpc.StatusCode.UNAVAILABLE)
        case pb.WALLET_PROBLEM_KIND_BOOK_UNAVAILABLE:
            return BookUnavailableError(problem.message)
        case pb.WALLET_PROBLEM_KIND_OFFER_NOT_ALLOWED:
            return OfferNotAllowedError([problem.message])
        case _:
            return WalletError(problem.message)


class WithProblem(Protocol):
    """An answer of the wallet, which may be a problem instead."""

    @property
    def problem(self) -> pb.WalletProblem:
        """The problem."""
        ...

    def HasField(self, field_name: Literal["problem"], /) -> bool:  # noqa: N802 - protobuf's name
        """Whether there is one."""
        ...


def check_problem(answer: WithProblem) -> None:
    """Raises the problem that a wallet answers with."""
    if answer.HasField("problem"):
        raise read_problem(answer.problem)


def write_payee(seller: Seller) -> pb.Payee:
    """Where a payment goes."""
    operator = seller.operator
    return pb.Payee(
        network=str(operator.network),
        operator=operator.operator,
        escrow=operator.escrow,
        token=seller.token.address,
        receiver=seller.receiver,
        host=seller.host,
    )


def read_payee(payee: pb.Payee, operators: tuple[Operator, ...]) -> Seller:
    """The same, on this wallet's allow-list; raises OfferNotAllowedError, and MalformedError on another form."""
    not_zero(payee.receiver, "payee.receiver")
    if not 0 < len(payee.host) <= HOST_CHARS_MAX:
        raise MalformedError("payee.host", payee.host, f"1 to {HOST_CHARS_MAX} characters")
    for operator in operators:
        same = (str(operator.network), operator.operator, operator.escrow)
        token = operator.token(payee.token)
        if token is not None and same == (payee.network, payee.operator, payee.escrow):
            return Seller(operator, token, payee.receiver, payee.host)
    raise OfferNotAllowedError(["payee: its operator or token is not on the allow-list of the wallet that is served"])


def write_operator(operator: Operator, deferred: list[bytes], per_request: list[int]) -> pb.PayerTerms:
    """An operator of the allow-list; `per_request` has the limit for each of its tokens."""
    return pb.PayerTerms(
        network=str(operator.network),
        aggregator=operator.aggregator,
        operator=operator.operator,
        escrow=operator.escrow,
        withdraw_delay_s=operator.withdraw_delay_s,
        tokens=[write_token(token) for token in operator.tokens],
        deferred_tokens=deferred,
        per_request=[encode_amount(limit) for limit in per_request],
    )


def read_operator(terms: pb.PayerTerms) -> Operator:
    """The same, in the worker. Raises MalformedError."""
    return Operator(
        network=read_network(terms.network, "operators.network"),
        aggregator=terms.aggregator,
        operator=terms.operator,
        escrow=terms.escrow,
        withdraw_delay_s=terms.withdraw_delay_s,
        tokens=tuple(read_token(token, "operators.tokens") for token in terms.tokens),
    )


def read_terms(described: pb.DescribeResponse) -> WalletTerms:
    """What a wallet says about itself. Raises MalformedError."""
    deferred: set[tuple[Operator, bytes]] = set()
    per_request: dict[tuple[Operator, bytes], int] = {}
    operators: list[Operator] = []
    for terms in described.operators:
        operator = read_operator(terms)
        operators.append(operator)
        deferred |= {(operator, token) for token in terms.deferred_tokens}
        if len(terms.per_request) != len(operator.tokens):
            got = Described(f"{len(terms.per_request)} limits")
            raise MalformedError("operators.per_request", got, f"one for each of {len(operator.tokens)} tokens")
        for token, limit in zip(operator.tokens, terms.per_request, strict=True):
            per_request[operator, token.address] = decode_amount(limit, "operators.per_request")
    return WalletTerms(
        fixed(described.payer, 20, "payer"),
        tuple(operators),
        frozenset(deferred),
        per_request,
        described.allows_exact,
        max(1, described.max_headroom),
        max(0.01, described.report_every_ms / 1_000),
    )
