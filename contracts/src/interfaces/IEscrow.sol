// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title IEscrow
/// @notice One deposit, any number of sellers: a payer's stablecoin, paid out against cumulative vouchers.
///
/// @dev Words. An *account* is a payer's deposit under one operator, token, withdraw delay and salt. A *channel* is an
///      account and a receiver. A *claim* moves a channel's `claimed` up to what the payer was charged and pays the
///      receiver. Amounts are in the token's atomic units.
///
///      Invariant I7: for every token the escrow holds at least the sum of all balances and all amounts owed. Tokens are
///      booked apart; for one that changes balances by itself, or moves money and does not answer true, I7 is not
///      promised, and its accounts alone bear that. Nobody owns the contract, and nothing in it can be changed.
///
///      Ids are EIP-712 hashes under this contract's domain (name `Tallystick Escrow`, version `1`), which contains the
///      chain id. On a chain that splits off and changes its id, ids change too: deposits are then reachable on the
///      chain that kept the id only.
interface IEscrow {
    // ------------------------------------------------------------------------------------------------------- types

    /// @notice The parties and terms of a channel. With `receiver` zero it is the configuration of the account that
    ///         all its channels draw on. Where a function works on an account, it does not look at `receiver`.
    struct ChannelConfig {
        /// @dev Owns the deposit; gets back what is not claimed. May be a contract.
        address payer;
        /// @dev The key that signs vouchers and approvals. ECDSA only, never zero, so that no row runs a payer's code.
        address payerAuthorizer;
        /// @dev The seller that is paid.
        address receiver;
        /// @dev The operator: claims, and signs claim batches and refunds. An EOA or a contract with ERC-1271.
        address receiverAuthorizer;
        /// @dev The ERC-20 token of the deposit.
        address token;
        /// @dev Seconds between the start of a withdrawal and its end; 15 minutes to 30 days.
        uint40 withdrawDelay;
        /// @dev Tells apart accounts that are otherwise alike.
        bytes32 salt;
    }

    /// @notice What an account's payer approves for one receiver: its cumulative total.
    struct ReceiverTotal {
        /// @dev The seller.
        address receiver;
        /// @dev Everything the seller may ever have claimed from the account, in atomic units.
        uint128 total;
    }

    /// @notice One row of {Claimed}: a channel that was paid.
    struct ClaimedRow {
        /// @dev The seller. With the account's configuration it gives the channel's id.
        address receiver;
        /// @dev The channel's `claimed` after the row, in atomic units.
        uint128 total;
    }

    /// @notice An account as {accounts} shows it.
    struct AccountState {
        /// @dev True from the first deposit on.
        bool opened;
        /// @dev Deposits less claims, refunds and withdrawals, in atomic units.
        uint128 balance;
        /// @dev The nonce that the next refund has to carry.
        uint256 refundNonce;
        /// @dev The nonce that the payer's next signed withdrawal or cancellation has to carry.
        uint256 withdrawNonce;
        /// @dev The nonce that the payerAuthorizer's has to carry, if it is not the payer itself.
        uint256 authorizerNonce;
        /// @dev The pending withdrawal's amount in atomic units; zero when none is pending.
        uint128 withdrawAmount;
        /// @dev Unix time from which the pending withdrawal can be finalised; zero when none is pending.
        uint40 withdrawableAt;
        /// @dev The payer has started the pending withdrawal; false when the payerAuthorizer has, or none is pending.
        bool withdrawByPayer;
    }

    /// @notice Why a row of a claim was left out.
    enum SkipReason {
        /// @dev It was not.
        None,
        /// @dev The receiver is zero, the escrow or the token.
        BadReceiver,
        /// @dev The channel has already claimed as much as the row asks for.
        NothingNew,
        /// @dev The row asks for more than its voucher's ceiling.
        AboveCeiling,
        /// @dev The account holds nothing.
        AccountEmpty,
        /// @dev The voucher or approval is not signed by the payerAuthorizer with a canonical signature.
        BadSignature
    }

    // ------------------------------------------------------------------------------------------------------ events

    /// @notice An account got its first deposit, `amount`. With {Deposited}, {Claimed}, {Refunded} and the events of
    ///         withdrawals it is all that is needed to rebuild every account and channel from logs.
    event AccountOpened(
        bytes32 indexed accountId,
        address indexed payer,
        address indexed operator,
        address payerAuthorizer,
        address token,
        uint40 withdrawDelay,
        bytes32 salt,
        uint128 amount
    );

    /// @notice A further `amount` was deposited; `balance` is the account's balance after it.
    event Deposited(bytes32 indexed accountId, uint128 amount, uint128 balance);

    /// @notice The account paid `rows`. A row paid what its `total` is above the channel's previous total (zero before
    ///         the first); the account's balance fell by the sum.
    event Claimed(bytes32 indexed accountId, ClaimedRow[] rows);

    /// @notice A row that asked for the cumulative `total` was left out and changed nothing.
    event RowSkipped(bytes32 indexed accountId, address indexed receiver, uint128 total, SkipReason reason);

    /// @notice A withdrawal of up to `amount` was started; it can be finalised from `withdrawableAt` (Unix time) on. One
    ///         by the payer replaces a pending one that the payerAuthorizer had started: that one is gone then, and has
    ///         no other event. `nonce` is the withdrawal nonce that it used up: the payer's if `byPayer`, else the
    ///         payerAuthorizer's.
    event WithdrawInitiated(
        bytes32 indexed accountId, uint128 amount, uint40 withdrawableAt, uint256 nonce, bool byPayer
    );

    /// @notice The pending withdrawal was given up. `nonce` is the withdrawal nonce that this used up: the payer's if
    ///         `byPayer`, else the payerAuthorizer's.
    event WithdrawCancelled(bytes32 indexed accountId, uint256 nonce, bool byPayer);

    /// @notice The pending withdrawal ended: `amount` (zero if nothing was left) went to the payer.
    event WithdrawFinalized(bytes32 indexed accountId, uint128 amount, uint128 balance);

    /// @notice The operator gave `amount` back to the payer. `nonce` is the refund nonce that this used up,
    ///         `withdrawAmount` what remains of a pending withdrawal (zero: none is pending any more).
    event Refunded(bytes32 indexed accountId, uint128 amount, uint128 balance, uint256 nonce, uint128 withdrawAmount);

    /// @notice A transfer failed: `amount` is kept for `to`, who is owed `total` of the token now.
    event Owed(address indexed to, address indexed token, uint256 amount, uint256 total);

    /// @notice All that was owed to `to` was paid.
    event Collected(address indexed to, address indexed token, uint256 amount);

    /// @notice The operator allowed `sender` to land its claims, or no longer does.
    event SenderSet(address indexed operator, address indexed sender, bool allowed);

    // ------------------------------------------------------------------------------------------------------ errors

    /// @notice An address of the configuration that may not be what it is: zero, or as payee the escrow or the token.
    error BadAddress(bytes32 field, address got);
    /// @notice The withdraw delay is outside of what is allowed (all in seconds).
    error WithdrawDelayOutOfRange(uint256 got, uint256 min, uint256 max);
    /// @notice An amount of zero where there has to be one.
    error ZeroAmount();
    /// @notice The address does not answer `balanceOf`.
    error NotAToken(address token);
    /// @notice The token did not deliver exactly the deposit (a fee on transfer, say).
    error DepositNotExact(uint256 got, uint256 expected);
    /// @notice The caller is neither the batch's operator nor a sender that it has allowed.
    error NotOperatorOrSender(address caller, address operator);
    /// @notice The caller is neither the payer nor the payerAuthorizer.
    error NotPayer(address caller, address payer, address payerAuthorizer);
    /// @notice The signature is not `signer`'s, or for a withdrawal neither the payer's nor the payerAuthorizer's.
    error BadSignature(address signer, bytes32 digest);
    /// @notice The nonce is not the next one, of the account's refunds or of whoever signed the withdrawal.
    error BadNonce(uint256 got, uint256 expected);
    /// @notice The signature was good until `deadline` (Unix time).
    error DeadlinePassed(uint256 deadline, uint256 nowTime);
    /// @notice The account holds nothing that could be withdrawn.
    error AccountEmpty(bytes32 accountId);
    /// @notice The account never had a deposit.
    error AccountUnknown(bytes32 accountId);
    /// @notice A withdrawal is pending already, and it is the payer's, or whoever starts another is not the payer.
    error WithdrawPending(bytes32 accountId, uint128 amount, uint40 withdrawableAt);
    /// @notice The pending withdrawal was started by the payer, who alone may cancel it.
    error WithdrawOfPayer(bytes32 accountId);
    /// @notice No withdrawal is pending.
    error NoWithdrawPending(bytes32 accountId);
    /// @notice The pending withdrawal can be finalised from `withdrawableAt` (Unix time) on.
    error WithdrawTooEarly(uint40 withdrawableAt, uint256 nowTime);
    /// @notice Nothing is owed.
    error NothingOwed(address to, address token);
    /// @notice Too little gas is left for a transfer to have its fair chance; send the transaction with more.
    error InsufficientGas(uint256 got, uint256 needed);
    /// @notice The batch ends before its content does.
    error BatchTruncated(uint256 length, uint256 needed);
    /// @notice The batch goes on after its content ends.
    error BatchTooLong(uint256 length, uint256 used);
    /// @notice A row names a receiver that the batch does not list.
    error ReceiverIndexOutOfRange(uint256 index, uint256 receiverCount);
    /// @notice An account of the batch is authorised in a way that does not exist.
    error UnknownAuthorization(uint256 got, uint256 max);

    // ---------------------------------------------------------------------------------------------------- deposits

    /// @notice Moves `amount` from the caller into the account.
    /// @dev Anyone may call; the caller has to have approved the escrow. Emits {AccountOpened} for the
    ///      account's first deposit, {Deposited} for each further one.
    /// @param config The account; `receiver` is not looked at.
    /// @param amount Atomic units, above zero.
    function deposit(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Moves `amount` from the payer into the account by an ERC-3009 `ReceiveWithAuthorization` to the escrow.
    /// @dev Anyone may call: the token's nonce has to be {depositNonce}, so the money can only reach this account.
    ///      A signature of 65 bytes goes to the token as `v, r, s`, any other (contract wallets) in its `bytes` form.
    ///      Emits as {deposit} does. If the nonce is used already nothing happens: somebody else landed this deposit, or
    ///      the payer has cancelled the authorization or used its nonce otherwise. It was deposited if, and only if, the
    ///      transaction that used the nonce (the token's `AuthorizationUsed`) has this escrow's event too.
    /// @param config The account; `receiver` is not looked at.
    /// @param amount Atomic units, above zero.
    /// @param validAfter Unix time after which the authorization is valid.
    /// @param validBefore Unix time before which the authorization is valid.
    /// @param salt What {depositNonce} was made with.
    /// @param signature The payer's signature of the authorization.
    /// @return credited True if this call moved the money, false if the nonce had been used before.
    function depositWithAuthorization(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 salt,
        bytes calldata signature
    ) external returns (bool credited);

    // ------------------------------------------------------------------------------------------------------ claims

    /// @notice Raises `claimed` of the batch's channels and pays every receiver once for each time it is listed.
    /// @dev Only the batch's operator or a sender it has allowed. A row that cannot be paid is skipped with
    ///      {RowSkipped}; an account that holds too little pays what it has, and the rest can be claimed later. A
    ///      transfer that fails leaves the amount in {owed}. What reverts is a batch that is not well-formed, or a
    ///      transaction with too little gas: at worst a payee takes {InsufficientGas}'s `needed` and 30,000 more.
    /// @param batch The encoding that `ClaimReader` describes byte by byte.
    function claim(bytes calldata batch) external;

    /// @notice The same for anyone who holds the operator's `ClaimBatch` signature: a seller's way out.
    /// @dev The signature can be used again and again; totals are cumulative, so that pays nothing twice. It is over the
    ///      rows, not over the payers' signatures that come with them: whoever sends the batch may spoil those of a row,
    ///      which is then skipped. An operator therefore signs batches of one receiver each, who can only harm itself.
    /// @param batch The encoding that `ClaimReader` describes byte by byte.
    /// @param signature The operator's, over {claimBatchDigest}: 65 bytes, or what its ERC-1271 takes.
    function claimWithSignature(bytes calldata batch, bytes calldata signature) external;

    /// @notice Allows or forbids `sender` to land the caller's claims. A sender can do nothing else.
    function setSender(address sender, bool allowed) external;

    /// @notice Pays out what a failed transfer has left behind. Anyone may call; reverts if the transfer fails again.
    /// @param to Who is owed, and is paid.
    /// @param token The ERC-20 token.
    function collect(address to, address token) external;

    // ------------------------------------------------------------------------------------------------------- exits

    /// @notice Starts the timed way out. Only the payer or the payerAuthorizer; reverts while one is pending, but for the
    ///         payer's, which replaces one that the payerAuthorizer started. The delay always begins anew.
    /// @dev Claims go on meanwhile; they are paid first. Uses up a withdrawal nonce of the caller's, so that signatures
    ///      of the caller's that were not landed die. Whoever is payer and payerAuthorizer acts as the payer.
    /// @param config The account; `receiver` is not looked at.
    /// @param amount Atomic units, above zero; may be more than the balance (`type(uint128).max`: everything).
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external;

    /// @notice The same by a `Withdraw` signature of the payer or the payerAuthorizer, landed by anyone.
    /// @param config The account; `receiver` is not looked at.
    /// @param amount Atomic units, above zero.
    /// @param nonce The account's `withdrawNonce` if the payer signs, its `authorizerNonce` if the payerAuthorizer does.
    /// @param deadline Unix time until which the signature is good.
    /// @param signature Over {withdrawDigest}.
    function initiateWithdrawWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Gives up the pending withdrawal. Only the payer, or the payerAuthorizer if it was started by the latter.
    /// @dev Uses up a withdrawal nonce of the caller's.
    function cancelWithdraw(ChannelConfig calldata config) external;

    /// @notice The same by a `Withdraw` signature **of amount zero**, landed by anyone.
    /// @param config The account; `receiver` is not looked at.
    /// @param nonce The account's `withdrawNonce` if the payer signs, its `authorizerNonce` if the payerAuthorizer does.
    /// @param deadline Unix time until which the signature is good.
    /// @param signature Over {withdrawDigest} with amount zero.
    function cancelWithdrawWithSignature(
        ChannelConfig calldata config,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Ends the pending withdrawal once its time has come: pays the payer what was asked or what is left.
    /// @dev Anyone may call. A transfer that fails leaves the amount in {owed}.
    function finalizeWithdraw(ChannelConfig calldata config) external;

    /// @notice Gives `amount`, or what is left if that is less, back to the payer at once, and lowers a pending
    ///         withdrawal by as much.
    /// @dev Anyone who holds the operator's `Refund` signature. The nonce is used up even if nothing is left; a refund
    ///      of zero voids another of the same nonce. A transfer that fails leaves the amount in {owed}.
    /// @param config The account; `receiver` is not looked at.
    /// @param amount Atomic units.
    /// @param nonce The account's `refundNonce`.
    /// @param signature The operator's, over {refundDigest}: 65 bytes, or what its ERC-1271 takes.
    function refundWithSignature(ChannelConfig calldata config, uint128 amount, uint256 nonce, bytes calldata signature)
        external;

    // ------------------------------------------------------------------------------------------------------- views

    /// @notice The accounts' states, in the order asked for; all zero for an account that was never opened.
    function accounts(bytes32[] calldata accountIds) external view returns (AccountState[] memory states);

    /// @notice The channels' cumulative claimed totals in atomic units, in the order asked for.
    function claimed(bytes32[] calldata channelIds) external view returns (uint128[] memory totals);

    /// @notice What failed transfers have left behind for `to`, in atomic units.
    function owed(address to, address token) external view returns (uint256 amount);

    /// @notice Whether `sender` may land the operator's claims.
    function isSender(address operator, address sender) external view returns (bool allowed);

    /// @notice The id of the account that the channel draws on; `receiver` is not looked at.
    function accountId(ChannelConfig calldata config) external view returns (bytes32 id);

    /// @notice The channel's id. Reverts with {BadAddress} if `receiver` is zero.
    function channelId(ChannelConfig calldata config) external view returns (bytes32 id);

    /// @notice The ERC-3009 nonce of a deposit: `keccak256(abi.encode(accountId, salt))`.
    function depositNonce(bytes32 accountId_, bytes32 salt) external pure returns (bytes32 nonce);

    /// @notice What a payerAuthorizer signs as `Voucher`.
    function voucherDigest(bytes32 channelId_, uint128 maxClaimableAmount) external view returns (bytes32 digest);

    /// @notice What a payerAuthorizer signs as `TotalsApproval`.
    function approvalDigest(bytes32 accountId_, ReceiverTotal[] calldata totals) external view returns (bytes32 digest);

    /// @notice What an operator signs as `ClaimBatch`: the batch's rows in their order.
    function claimBatchDigest(bytes calldata batch) external view returns (bytes32 digest);

    /// @notice What an operator signs as `Refund`; the type's `channelId` carries the account's id.
    function refundDigest(bytes32 accountId_, uint256 nonce, uint128 amount) external view returns (bytes32 digest);

    /// @notice What a payer or payerAuthorizer signs as `Withdraw`.
    function withdrawDigest(bytes32 accountId_, uint128 amount, uint256 nonce, uint256 deadline)
        external
        view
        returns (bytes32 digest);

    /// @notice The EIP-712 domain separator for the present chain id.
    function domainSeparator() external view returns (bytes32 separator);
}
