"""Escrow.sol and a USDC-like token as a small Python model: what the memory twin of a chain executes.

Takes and returns the same calldata and events as the contracts, so that everything above the node is the real thing.
A differential test holds it against the contracts. Signatures of contract wallets are not modelled.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from memory_chain.world import Frame, HeldAccount, Logs, World, require, signer_of, word
from tallystick import channels, eip712
from tallystick.channels import ChannelConfig
from tallystick.eip712 import Domain
from tallystick.quantities import ZERO_ADDRESS
from tallystick_aggregator.chain import escrow_calls as calls
from tallystick_aggregator.chain import token as token_calls
from tallystick_aggregator.chain.escrow_calls import CONFIG_TYPE, selector
from tallystick_aggregator.chain.node import CallRevertedError
from tallystick_contracts import claim_batch
from tallystick_contracts.claim_batch import AccountClaim, ClaimBatch, ClaimBatchError, ClaimRow

TOKEN_NAME: Final = "USD Coin"
TOKEN_VERSION: Final = "2"
MINT: Final = "mint(address,uint256)"
SET_SENDER: Final = "setSender(address,bool)"
INITIATE_WITHDRAW: Final = f"initiateWithdraw({CONFIG_TYPE},uint128)"
CANCEL_WITHDRAW: Final = f"cancelWithdraw({CONFIG_TYPE})"
FINALIZE_WITHDRAW: Final = f"finalizeWithdraw({CONFIG_TYPE})"
_SKIPPED: Final = {reason: number for number, reason in enumerate(calls.SKIP_REASONS)}


class Contracts:
    """One escrow and one token at fixed addresses; `run` executes a call on a world and changes it."""

    def __init__(self, chain_id: int, escrow: bytes, token: bytes) -> None:
        self.escrow = escrow
        self.token = token
        self.escrow_domain = eip712.escrow_domain(chain_id, escrow)
        self.token_domain = Domain(TOKEN_NAME, TOKEN_VERSION, chain_id, token)
        self._functions: dict[tuple[bytes, bytes], Callable[[Frame, bytes], bytes]] = {
            (escrow, selector(calls.DEPOSIT_WITH_AUTHORIZATION)): _deposit_with_authorization,
            (escrow, selector(calls.CLAIM)): _claim,
            (escrow, selector(calls.REFUND_WITH_SIGNATURE)): _refund,
            (escrow, selector(INITIATE_WITHDRAW)): _initiate_withdraw,
            (escrow, selector(CANCEL_WITHDRAW)): _cancel_withdraw,
            (escrow, selector(FINALIZE_WITHDRAW)): _finalize_withdraw,
            (escrow, selector(SET_SENDER)): _set_sender,
            (escrow, selector(calls.ACCOUNTS)): _accounts,
            (escrow, selector(calls.CLAIMED)): _claimed,
            (escrow, selector(calls.IS_SENDER)): _is_sender,
            (escrow, selector(calls.OWED_TO)): _owed,
            (escrow, selector(calls.COLLECT)): _collect,
            (escrow, selector(calls.DOMAIN_SEPARATOR)): lambda frame, _: frame.contracts.escrow_domain.separator,
            (token, selector(MINT)): _mint,
            (token, selector(token_calls.TRANSFER_BY_PARTS)): _transfer_by_parts,
            (token, selector(token_calls.TRANSFER_BY_BYTES)): _transfer_by_bytes,
            (token, selector(token_calls.BALANCE_OF)): _balance_of,
            (token, selector(token_calls.AUTHORIZATION_STATE)): _authorization_state,
            (token, selector(token_calls.DOMAIN_SEPARATOR)): lambda frame, _: frame.contracts.token_domain.separator,
            (token, selector(token_calls.DECIMALS)): lambda _frame, _data: word(6),
        }

    def run(self, world: World, sender: bytes, to: bytes, data: bytes, timestamp: int) -> tuple[bytes, Logs]:
        """Execute a call; raises CallRevertedError, and then the world is to be thrown away."""
        if to not in {self.escrow, self.token}:
            return b"", []
        function = self._functions.get((to, data[:4]))
        if function is None:
            raise CallRevertedError(b"", "execution reverted: no such function")
        frame = Frame(self, world, sender, timestamp)
        try:
            answer = function(frame, data[4:])
        except (DecodingError, ValueError) as error:
            raise CallRevertedError(b"", f"execution reverted: {error}") from error
        return answer, frame.logs


# The escrow.


def _deposit_with_authorization(frame: Frame, data: bytes) -> bytes:
    fields, amount, valid_after, valid_before, salt, signature = decode(
        [CONFIG_TYPE, "uint128", "uint256", "uint256", "bytes32", "bytes"], data
    )
    config = _config(fields)
    account_id, account = frame.account(config)
    nonce = eip712.deposit_nonce(account_id, salt)
    if (config.payer, nonce) in frame.world.used:
        return word(0)
    require(amount > 0, "ZeroAmount()")
    if account.opened:
        account.balance += amount
        frame.emit("Deposited(bytes32,uint128,uint128)", [account_id], ["uint128"] * 2, [amount, account.balance])
    else:
        account.opened, account.balance = True, amount
        frame.emit(
            calls.ACCOUNT_OPENED,
            [account_id, config.payer, config.receiver_authorizer],
            ["address", "address", "uint40", "bytes32", "uint128"],
            [config.payer_authorizer, config.token, config.withdraw_delay_s, config.salt, amount],
        )
    typed = eip712.hash_receive_with_authorization(
        config.payer, frame.contracts.escrow, amount, valid_after, valid_before, nonce
    )
    frame.use_authorization(typed, config.payer, nonce, (valid_after, valid_before), signature)
    frame.move(config.payer, frame.contracts.escrow, amount)
    return word(1)


def _claim(frame: Frame, data: bytes) -> bytes:
    try:
        batch = claim_batch.decode(bytes(decode(["bytes"], data)[0]))
    except ClaimBatchError as error:
        raise CallRevertedError(b"", f"execution reverted: {error}") from error
    allowed = frame.sender == batch.operator or (batch.operator, frame.sender) in frame.world.senders
    require(allowed, "NotOperatorOrSender(address,address)", frame.sender, batch.operator)
    payouts: dict[bytes, int] = {}
    for claim in batch.accounts:
        for row in claim.rows:
            payouts.setdefault(row.receiver, 0)
        _claim_account(frame, batch, claim, payouts)
    for receiver, amount in payouts.items():
        if amount:
            frame.pay(receiver, amount)
    return b""


def _claim_account(frame: Frame, batch: ClaimBatch, claim: AccountClaim, payouts: dict[bytes, int]) -> None:
    config = ChannelConfig(
        claim.payer,
        claim.payer_authorizer,
        ZERO_ADDRESS,
        batch.operator,
        batch.token,
        claim.withdraw_delay_s,
        claim.salt,
    )
    account_id, account = frame.account(config)
    approved = False
    if claim.approval is not None:
        totals = [(row.receiver, row.total_claimed) for row in claim.rows]
        digest = eip712.digest(frame.contracts.escrow_domain, eip712.hash_totals_approval(account_id, totals))
        approved = signer_of(digest, claim.approval) == claim.payer_authorizer
    claimed: list[tuple[bytes, int]] = []
    for row in claim.rows:
        channel_id = channels.channel_id(frame.contracts.escrow_domain, config.channel(row.receiver))
        before = frame.world.claimed.get(channel_id, 0)
        reason = _skip_reason(frame, account, claim, row, channel_id, before, approved=approved)
        if reason:
            values = [row.total_claimed, _SKIPPED[reason]]
            frame.emit(calls.ROW_SKIPPED, [account_id, row.receiver], ["uint128", "uint8"], values)
            continue
        amount = min(row.total_claimed - before, account.balance)
        account.balance -= amount
        frame.world.claimed[channel_id] = before + amount
        payouts[row.receiver] += amount
        claimed.append((row.receiver, before + amount))
    if claimed:
        frame.emit("Claimed(bytes32,(address,uint128)[])", [account_id], ["(address,uint128)[]"], [claimed])


def _skip_reason(
    frame: Frame,
    account: HeldAccount,
    claim: AccountClaim,
    row: ClaimRow,
    channel_id: bytes,
    before: int,
    *,
    approved: bool,
) -> str:
    if claim.approval is not None and not approved:
        return "BadSignature"
    if row.receiver in {ZERO_ADDRESS, frame.contracts.escrow, frame.contracts.token}:
        return "BadReceiver"
    if row.total_claimed <= before:
        return "NothingNew"
    if not account.balance:
        return "AccountEmpty"
    if approved:
        return ""
    if row.total_claimed > row.max_claimable_amount:
        return "AboveCeiling"
    typed = eip712.hash_voucher(channel_id, row.max_claimable_amount)
    signer = signer_of(eip712.digest(frame.contracts.escrow_domain, typed), row.signature or b"")
    return "" if signer == claim.payer_authorizer else "BadSignature"


def _refund(frame: Frame, data: bytes) -> bytes:
    fields, amount, nonce, signature = decode([CONFIG_TYPE, "uint128", "uint256", "bytes"], data)
    config = _config(fields)
    account_id, account = frame.account(config)
    digest = eip712.digest(frame.contracts.escrow_domain, eip712.hash_refund(account_id, nonce, amount))
    operator = config.receiver_authorizer
    require(signer_of(digest, signature) == operator, "BadSignature(address,bytes32)", operator, digest)
    require(account.opened, "AccountUnknown(bytes32)", int.from_bytes(account_id, "big"))
    require(account.opened, "AccountUnknown(bytes32)", account_id)
    require(nonce == account.refund_nonce, "BadNonce(uint256,uint256)", nonce, account.refund_nonce)
    account.refund_nonce += 1
    paid = min(amount, account.balance)
    account.balance -= paid
    if account.withdraw_amount > paid:
        account.withdraw_amount -= paid
    elif account.withdraw_amount:
        account.end_withdrawal()
    values = [paid, account.balance, nonce, account.withdraw_amount]
    frame.emit(calls.REFUNDED, [account_id], ["uint128", "uint128", "uint256", "uint128"], values)
    if paid:
        frame.pay(config.payer, paid)
    return b""


def _initiate_withdraw(frame: Frame, data: bytes) -> bytes:
    fields, amount = decode([CONFIG_TYPE, "uint128"], data)
    account_id, account, by_payer = _of_payer(frame, fields)
    require(amount > 0, "ZeroAmount()")
    pending = (account_id, account.withdraw_amount, account.withdrawable_at)
    free = not account.withdrawable_at or (by_payer and not account.withdraw_by_payer)
    require(free, "WithdrawPending(bytes32,uint128,uint40)", *pending)
    require(account.balance > 0, "AccountEmpty(bytes32)", account_id)
    account.withdraw_amount = amount
    account.withdrawable_at = frame.timestamp + fields[5]
    account.withdraw_by_payer = by_payer
    values = [amount, account.withdrawable_at, account.use_withdraw_nonce(by_payer=by_payer), by_payer]
    frame.emit(
        "WithdrawInitiated(bytes32,uint128,uint40,uint256,bool)",
        [account_id],
        ["uint128", "uint40", "uint256", "bool"],
        values,
    )
    return b""


def _cancel_withdraw(frame: Frame, data: bytes) -> bytes:
    (fields,) = decode([CONFIG_TYPE], data)
    account_id, account, by_payer = _of_payer(frame, fields)
    require(account.withdrawable_at > 0, "NoWithdrawPending(bytes32)", account_id)
    require(by_payer or not account.withdraw_by_payer, "WithdrawOfPayer(bytes32)", account_id)
    account.end_withdrawal()
    values = [account.use_withdraw_nonce(by_payer=by_payer), by_payer]
    frame.emit("WithdrawCancelled(bytes32,uint256,bool)", [account_id], ["uint256", "bool"], values)
    return b""


def _finalize_withdraw(frame: Frame, data: bytes) -> bytes:
    (fields,) = decode([CONFIG_TYPE], data)
    config = _config(fields)
    account_id, account = frame.account(config)
    require(account.withdrawable_at > 0, "NoWithdrawPending(bytes32)", account_id)
    early = (account.withdrawable_at, frame.timestamp)
    require(frame.timestamp >= account.withdrawable_at, "WithdrawTooEarly(uint40,uint256)", *early)
    paid = min(account.withdraw_amount, account.balance)
    account.end_withdrawal()
    account.balance -= paid
    frame.emit(calls.WITHDRAW_FINALIZED, [account_id], ["uint128", "uint128"], [paid, account.balance])
    if paid:
        frame.pay(config.payer, paid)
    return b""


def _set_sender(frame: Frame, data: bytes) -> bytes:
    sender, allowed = decode(["bytes32", "bool"], data)
    pair = (frame.sender, sender[12:])
    if allowed:
        frame.world.senders.add(pair)
    else:
        frame.world.senders.discard(pair)
    return b""


def _owed(frame: Frame, data: bytes) -> bytes:
    return word(frame.world.owed.get(data[12:32], 0) if data[44:64] == frame.contracts.token else 0)


def _collect(frame: Frame, data: bytes) -> bytes:
    to, token = data[12:32], data[44:64]
    amount = int.from_bytes(_owed(frame, data), "big")
    require(amount > 0, "NothingOwed(address,address)", to, token)
    del frame.world.owed[to]
    frame.emit("Collected(address,address,uint256)", [to, token], ["uint256"], [amount])
    frame.move(frame.contracts.escrow, to, amount)
    return b""


def _accounts(frame: Frame, data: bytes) -> bytes:
    (ids,) = decode(["bytes32[]"], data)
    states = [frame.world.accounts.get(id_, HeldAccount()) for id_ in ids]
    return encode(
        ["(bool,uint128,uint256,uint256,uint256,uint128,uint40,bool)[]"],
        [
            [
                (
                    s.opened,
                    s.balance,
                    s.refund_nonce,
                    s.withdraw_nonce,
                    s.authorizer_nonce,
                    s.withdraw_amount,
                    s.withdrawable_at,
                    s.withdraw_by_payer,
                )
                for s in states
            ]
        ],
    )


def _claimed(frame: Frame, data: bytes) -> bytes:
    (ids,) = decode(["bytes32[]"], data)
    return encode(["uint128[]"], [[frame.world.claimed.get(id_, 0) for id_ in ids]])


def _is_sender(frame: Frame, data: bytes) -> bytes:
    return word(int((data[12:32], data[44:64]) in frame.world.senders))


# The token.


def _mint(frame: Frame, data: bytes) -> bytes:
    to, amount = data[12:32], int.from_bytes(data[32:64], "big")
    frame.world.balances[to] = frame.world.balances.get(to, 0) + amount
    return b""


def _transfer_by_parts(frame: Frame, data: bytes) -> bytes:
    *fields, v, r, s = decode(token_calls.PARTS_TYPES, data)
    return _transfer(frame, fields, r + s + bytes([v]))


def _transfer_by_bytes(frame: Frame, data: bytes) -> bytes:
    *fields, signature = decode(token_calls.BYTES_TYPES, data)
    return _transfer(frame, fields, signature)


def _transfer(frame: Frame, fields: Sequence[Any], signature: bytes) -> bytes:
    from_, to = (bytes.fromhex(text[2:]) for text in fields[:2])
    _, _, value, valid_after, valid_before, nonce = fields
    typed = eip712.hash_transfer_with_authorization(from_, to, value, valid_after, valid_before, nonce)
    frame.use_authorization(typed, from_, nonce, (valid_after, valid_before), signature)
    frame.move(from_, to, value)
    return b""


def _balance_of(frame: Frame, data: bytes) -> bytes:
    return word(frame.world.balances.get(data[12:32], 0))


def _authorization_state(frame: Frame, data: bytes) -> bytes:
    return word(int((data[12:32], data[32:64]) in frame.world.used))


# Small things.


def _of_payer(frame: Frame, fields: Sequence[Any]) -> tuple[bytes, HeldAccount, bool]:
    """The account's id and state, and whether the caller is the payer rather than the payerAuthorizer."""
    config = _config(fields)
    parties = (config.payer, config.payer_authorizer)
    require(frame.sender in parties, "NotPayer(address,address,address)", frame.sender, *parties)
    return *frame.account(config), frame.sender == config.payer


def _config(fields: Sequence[Any]) -> ChannelConfig:
    payer, authorizer, _, operator, token, delay_s, salt = fields
    addresses = (bytes.fromhex(text[2:]) for text in (payer, authorizer, operator, token))
    payer, authorizer, operator, token = addresses
    return ChannelConfig(payer, authorizer, ZERO_ADDRESS, operator, token, delay_s, salt)
