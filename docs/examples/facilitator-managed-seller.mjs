// Sells by `batch-settlement` in the official npm servers, with vouchers that the facilitator manages: a server scheme
// for @x402/express or @x402/core, without packages of its own. The package's own scheme keeps the vouchers in the
// server, which then has to claim them; here the server keeps nothing, and Tallystick claims and pays out.
//
//   const facilitator = new HTTPFacilitatorClient({ url, createAuthHeaders });
//   const server = new x402ResourceServer(facilitator)
//     .register("eip155:8453", new FacilitatorManagedScheme(facilitator));
//
// A price is in atomic units: { amount: "1000", asset: "0x…", extra: { name: "USD Coin", version: "2" } }, with the name
// and version of the token's EIP-712 domain. `minDeposit` in `extra` is what a buyer is asked to deposit, in atomic
// units; without it ten times the price. A handler that fails frees the payer's channel and charges nothing.
const DEPOSIT_PAYMENTS = 10n;
const FLOW = { supported: ["authorization"], default: "authorization" };
const TERMS = ["scheme", "network", "amount", "asset", "payTo"];

export class FacilitatorManagedScheme {
  scheme = "batch-settlement";
  defaultAssetTransferMethod = "eip3009";
  paymentFlows = { eip3009: FLOW, permit2: FLOW };
  // What /verify said of payments that are being handled; two requests may carry the same payment.
  #answers = new WeakMap();

  constructor(facilitator) {
    this.facilitator = facilitator;
  }

  schemeHooks = {
    // Also told of refusals: they bring what corrects the payer.
    onAfterVerify: async ({ paymentPayload, result }) => {
      this.#answers.set(paymentPayload, result);
      const { type, voucher } = paymentPayload.payload;
      if (!result.isValid || type !== "refund") return undefined;
      const body = { message: "Refund acknowledged", channelId: voucher.channelId };
      return { skipHandler: true, response: { contentType: "application/json", body } }; // a refund is no paid request
    },
    onVerifiedPaymentCanceled: async ({ paymentPayload, requirements }) => {
      const pending = this.#takePending(paymentPayload);
      if (!pending) return;
      const payload = { ...paymentPayload.payload, ...pending, cancel: true };
      await this.facilitator.settle({ ...paymentPayload, payload }, { ...requirements, amount: "0" });
    },
  };

  validateFacilitatorSupport(network, { extra = {} }) {
    if (!extra.voucherManager?.includes?.("facilitator") || !extra.receiverAuthorizer || !extra.withdrawDelay)
      return `the facilitator does not manage vouchers on ${network}`;
    if (extra.delegatedRefund !== true) return `the facilitator wants a key that signs refunds on ${network}`;
    return undefined;
  }

  async parsePrice(price, network) {
    if (!/^[0-9]+$/.test(price?.amount ?? "") || !price.asset)
      throw new Error(`price on ${network}: got ${JSON.stringify(price)}, allowed { amount, asset, extra }`);
    return price;
  }

  async enhancePaymentRequirements(requirements, { extra: told }) {
    const { receiverAuthorizer, withdrawDelay } = told;
    const { minDeposit, ...extra } = requirements.extra ?? {};
    if (!extra.name || !extra.version)
      throw new Error(`price.extra: got ${JSON.stringify(extra)}, allowed name and version of the token's EIP-712 domain`);
    const amount = BigInt(requirements.amount);
    const wanted = minDeposit === undefined ? amount * DEPOSIT_PAYMENTS : BigInt(minDeposit);
    const managed = { receiverAuthorizer, withdrawDelay, voucherManager: "facilitator" };
    return { ...requirements, extra: { ...extra, ...managed, minDeposit: String(wanted > amount ? wanted : amount) } };
  }

  // The two below are called without `this`.
  enrichSettlementPayload = async ({ paymentPayload }) => this.#takePending(paymentPayload);

  // Who signed over another total learns the channel's state and its newest voucher.
  enrichPaymentRequiredResponse = async ({ requirements, paymentPayload }) => {
    const answer = paymentPayload && this.#answers.get(paymentPayload);
    if (!answer || answer.isValid || !answer.extra?.channelState) return undefined;
    const { channelState, voucherState } = answer.extra;
    for (const offer of requirements)
      if (TERMS.every((name) => offer[name] === paymentPayload.accepted[name]))
        Object.assign(offer.extra, { channelState }, voucherState && { voucherState });
    return requirements;
  };

  #takePending(payment) {
    const { pendingId } = this.#answers.get(payment)?.extra ?? {};
    this.#answers.delete(payment);
    return pendingId ? { pendingId } : undefined;
  }
}
