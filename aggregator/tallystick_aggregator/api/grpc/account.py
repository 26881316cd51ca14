"""AccountService: what payers do. Their calls are proven by signatures, not by tokens; see `accounts.signed_calls`."""

from typing import Any, Final

from tallystick.amounts import decode_amount, encode_amount
from tallystick.codec.account import read_totals, write_permit2_approval, write_totals
from tallystick.codec.common import (
    SIGNATURE_BYTES,
    fixed,
    read_account,
    read_channel,
    read_network,
    write_channel_totals,
    write_config,
)
from tallystick.errors import Described, MalformedError
from tallystick.v1 import account_pb2, account_pb2_grpc
from tallystick_aggregator.accounts.accounts import APPROVAL_ROWS_MAX, Accounts
from tallystick_aggregator.accounts.deposits import Deposits
from tallystick_aggregator.accounts.refunds import Refunds
from tallystick_aggregator.accounts.signed_calls import SignedCall
from tallystick_aggregator.api.grpc.calls import ServicerContext, guarded, has_token, refusing, token_of
from tallystick_aggregator.api.grpc.codec import (
    read_call,
    read_deposit,
    read_escrow,
    write_account_totals,
    write_refusal,
    write_spend_key,
)
from tallystick_aggregator.auth.credentials import Principals, Scope, require_receiver
from tallystick_aggregator.ledger.answers import Refusal

NONCES_MAX: Final = 16
"""Nonces that one call asks for: each is a read of the chain."""


class AccountService(account_pb2_grpc.AccountServiceServicer):
    """See tallystick/v1/account.proto."""

    def __init__(self, principals: Principals, accounts: Accounts, deposits: Deposits, refunds: Refunds) -> None:
        self._principals = principals
        self._accounts = accounts
        self._deposits = deposits
        self._refunds = refunds

    @refusing(account_pb2.DepositResponse)
    async def Deposit(  # noqa: N802 - the .proto's name
        self, request: account_pb2.DepositRequest, context: ServicerContext
    ) -> account_pb2.DepositResponse | Refusal:
        """Land a payer's deposit; answer when it is credited."""
        del context  # proven by the authorization
        network, escrow = str(read_network(request.network)), read_escrow(request.escrow)
        answer = await self._deposits.deposit(network, read_deposit(request), escrow)
        if isinstance(answer, Refusal):
            return answer
        return account_pb2.DepositResponse(transaction=answer.transaction)

    @refusing(account_pb2.GetBalanceResponse)
    async def GetBalance(  # noqa: N802 - the .proto's name
        self, request: account_pb2.GetBalanceRequest, context: ServicerContext
    ) -> account_pb2.GetBalanceResponse | Refusal:
        """Tell what a payer could deposit, which of its authorizations were used, and what Permit2 may move."""
        del context  # proven by the signed call
        network, account = str(read_network(request.network)), read_account(request.account, "account")
        escrow = read_escrow(request.escrow)
        nonces = [fixed(nonce, 32, "nonces") for nonce in request.nonces]
        if len(nonces) > NONCES_MAX:
            raise MalformedError("nonces", Described(f"{len(nonces)} nonces"), f"at most {NONCES_MAX}")
        balance = await self._deposits.balance(network, account, _call(request), escrow)
        if isinstance(balance, Refusal):
            return balance
        response = account_pb2.GetBalanceResponse(balance=encode_amount(balance))
        if nonces:
            told = await self._deposits.nonces_used(network, account, nonces, escrow)
            if isinstance(told, Refusal):
                return told
            used, response.nonces_at = told
            response.nonces_used.extend(used)
        if request.permit2:
            approval = await self._deposits.permit2_approval(network, account, escrow)
            if isinstance(approval, Refusal):
                return approval
            if approval is not None:
                response.permit2.CopyFrom(write_permit2_approval(approval))
        return response

    @refusing(account_pb2.GetAccountResponse)
    async def GetAccount(  # noqa: N802 - the .proto's name
        self, request: account_pb2.GetAccountRequest, context: ServicerContext
    ) -> account_pb2.GetAccountResponse | Refusal:
        """Read an account and a page of its channels."""
        del context  # proven by the signed call
        after = request.after_channel_id and fixed(request.after_channel_id, 32, "after_channel_id")
        page = self._accounts.read(
            fixed(request.account_id, 32, "account_id"),
            _call(request),
            after,
        )
        if isinstance(page, Refusal):
            return page
        return account_pb2.GetAccountResponse(
            account=write_account_totals(page.account),
            config=write_config(page.account.config),
            network=page.account.network,
            escrow=page.account.escrow.address,
            channels=[write_channel_totals(totals) for totals in page.channels],
            more=page.more,
            spend_keys=[write_spend_key(key) for key in page.spend_keys],
            payment_id_retention_s=page.payment_id_retention_s,
        )

    @refusing(account_pb2.OpenChannelResponse)
    async def OpenChannel(  # noqa: N802 - the .proto's name
        self, request: account_pb2.OpenChannelRequest, context: ServicerContext
    ) -> account_pb2.OpenChannelResponse | Refusal:
        """Make a channel known; for its seller by token, for its payer by signature."""
        network, config = str(read_network(request.network)), read_channel(request.config, "config")
        call = None
        if request.HasField("authorization") or not has_token(context):
            call = _call(request)
        else:
            require_receiver(self._principals.require(token_of(context), Scope.CHARGE), config.receiver)
        answer = await self._accounts.open_channel(network, config, call, read_escrow(request.escrow))
        if isinstance(answer, Refusal):
            return answer
        return account_pb2.OpenChannelResponse(channel=write_channel_totals(answer))

    @refusing(account_pb2.RegisterSpendKeyResponse)
    async def RegisterSpendKey(  # noqa: N802 - the .proto's name
        self, request: account_pb2.RegisterSpendKeyRequest, context: ServicerContext
    ) -> account_pb2.RegisterSpendKeyResponse | Refusal:
        del context  # proven by the signed call
        answer = await self._accounts.register_spend_key(
            fixed(request.account_id, 32, "account_id"),
            fixed(request.key_id, 32, "key_id"),
            fixed(request.secret, 32, "secret"),
            decode_amount(request.cap, "cap"),
            request.expires_at,
            _call(request),
        )
        if isinstance(answer, Refusal):
            return answer
        return account_pb2.RegisterSpendKeyResponse(spend_key=write_spend_key(answer))

    @refusing(account_pb2.RevokeSpendKeyResponse)
    async def RevokeSpendKey(  # noqa: N802 - the .proto's name
        self, request: account_pb2.RevokeSpendKeyRequest, context: ServicerContext
    ) -> account_pb2.RevokeSpendKeyResponse | Refusal:
        del context  # proven by the signed call
        answer = await self._accounts.revoke_spend_key(
            fixed(request.account_id, 32, "account_id"),
            fixed(request.key_id, 32, "key_id"),
            _call(request),
        )
        if isinstance(answer, Refusal):
            return answer
        return account_pb2.RevokeSpendKeyResponse(spend_key=write_spend_key(answer))

    @refusing(account_pb2.RequestRefundResponse)
    async def RequestRefund(  # noqa: N802 - the .proto's name
        self, request: account_pb2.RequestRefundRequest, context: ServicerContext
    ) -> account_pb2.RequestRefundResponse | Refusal:
        """Give back to the payer what is not owed; answer when it is on chain."""
        del context  # proven by the signed call
        answer = await self._refunds.refund(
            fixed(request.account_id, 32, "account_id"),
            fixed(request.refund_id, 32, "refund_id"),
            decode_amount(request.amount, "amount"),
            _call(request),
        )
        if isinstance(answer, Refusal):
            return answer
        return account_pb2.RequestRefundResponse(
            transaction=answer.transaction,
            amount=encode_amount(answer.amount),
            account=write_account_totals(answer.account),
        )

    @refusing(account_pb2.GetTotalsToApproveResponse)
    async def GetTotalsToApprove(  # noqa: N802 - the .proto's name
        self, request: account_pb2.GetTotalsToApproveRequest, context: ServicerContext
    ) -> account_pb2.GetTotalsToApproveResponse | Refusal:
        """Tell the totals that the payer may approve for the next claim."""
        del context  # proven by the signed call
        answer = self._accounts.totals_to_approve(
            fixed(request.account_id, 32, "account_id"),
            _call(request),
        )
        if isinstance(answer, Refusal):
            return answer
        return account_pb2.GetTotalsToApproveResponse(totals=write_totals(answer))

    @guarded
    async def ApproveTotals(  # noqa: N802 - the .proto's name
        self, request: account_pb2.ApproveTotalsRequest, context: ServicerContext
    ) -> account_pb2.ApproveTotalsResponse:
        """Take a payer's approval of totals."""
        del context  # its signature is its own proof
        refusal = await self._accounts.approve_totals(
            fixed(request.account_id, 32, "account_id"),
            read_totals(request.totals, APPROVAL_ROWS_MAX),
            fixed(request.signature, SIGNATURE_BYTES, "signature"),
        )
        return account_pb2.ApproveTotalsResponse(refusal=None if refusal is None else write_refusal(refusal))


def _call(request: Any) -> SignedCall:
    return read_call(request.authorization, present=request.HasField("authorization"))
