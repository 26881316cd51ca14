// `deferred` for @x402/core's resource server. The payment names the hash of the request that it is for: whoever serves
// compares it. The page is not kept from the facilitator: the middleware forwards payments as they came.
import { boundHash } from "../../../docs/examples/deferred-seller.mjs";

export class DeferredScheme {
  scheme = "deferred";
  defaultAssetTransferMethod = "default";
  paymentFlows = { default: { supported: ["authorization"], default: "authorization" } };
  schemeHooks = {
    onBeforeVerify: async ({ paymentPayload, transportContext }) => {
      const { adapter, method } = transportContext.request;
      const { pathname, search } = new URL(adapter.getUrl());
      const { requestHash, blind } = paymentPayload.payload;
      if (requestHash === boundHash(method, pathname + search, Buffer.alloc(0), blind)) return undefined;
      return { abort: true, reason: "request_mismatch", message: "the payment is bound to another request" };
    },
  };

  async parsePrice(price) {
    return price;
  }

  async enhancePaymentRequirements(requirements, kind) {
    const { assets, ...extra } = kind.extra;
    return { ...requirements, extra };
  }
}
