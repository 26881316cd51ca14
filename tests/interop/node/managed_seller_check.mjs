// Drives docs/examples/facilitator-managed-seller.mjs in the official resource server, for tests: what its facilitator
// is sent, and what a buyer is told. The facilitator here answers what it is made to.
import { x402ResourceServer } from "@x402/core/server";
import { FacilitatorManagedScheme } from "../../../docs/examples/facilitator-managed-seller.mjs";

const network = "eip155:31337";
const extra = { receiverAuthorizer: "0x01", withdrawDelay: 900, voucherManager: ["server", "facilitator"], delegatedRefund: true };
const kinds = [{ x402Version: 2, scheme: "batch-settlement", network, extra }];
const sent = [];
let verified = { isValid: true, payer: "0x02", extra: { pendingId: "held" } };
const facilitator = {
  getSupported: async () => ({ kinds, extensions: [], signers: {} }),
  verify: async () => verified,
  settle: async ({ payload }, { amount }) => {
    sent.push({ ...payload, amount });
    return { success: true, transaction: "", network, amount: "", extra: {} };
  },
};
const server = new x402ResourceServer(facilitator).register(network, new FacilitatorManagedScheme(facilitator));
await server.initialize();
const price = { amount: "1000", asset: "0x03", extra: { name: "USD Coin", version: "2" } };
const [offer] = await server.buildPaymentRequirements({ scheme: "batch-settlement", network, payTo: "0x04", price });
const paying = (type) => ({ x402Version: 2, accepted: offer, payload: { type, voucher: { channelId: "0x05" } } });

const paid = paying("voucher");
await server.verifyPayment(paid, offer);
await server.settlePayment(paid, offer);
const failed = paying("voucher");
await server.verifyPayment(failed, offer);
await server.createPaymentCancellationDispatcher(failed, offer).cancel({ reason: "handler_failed" });
const { skipHandler } = await server.verifyPayment(paying("refund"), offer);
const state = { channelState: { chargedCumulativeAmount: "7" }, voucherState: { signedMaxClaimable: "7" } };
verified = { isValid: false, invalidReason: "mismatch", extra: state };
const wrong = paying("voucher");
await server.verifyPayment(wrong, offer);
const told = await server.createPaymentRequiredResponse([offer], { url: "" }, "mismatch", undefined, undefined, wrong);
console.log(JSON.stringify({ offer: offer.extra, sent, skipHandler, told: told.accepts[0].extra, after: offer.extra }));
