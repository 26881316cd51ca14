// A buyer with fetch, by the official wrapper: buys each page that it is told, and tells what came.
import { createInterface } from "node:readline";
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { makeScheme, policy, settings } from "./buying.mjs";

const scheme = makeScheme();
const fetchWithPayment = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: settings.network, client: scheme }],
  policies: [policy],
  spendControls: { allowedAssets: true }, // a token that the package does not know
});

console.log("{}");
for await (const line of createInterface({ input: process.stdin })) {
  const { url, is_refund } = JSON.parse(line);
  if (is_refund) {
    console.log(JSON.stringify({ status: 200, body: "", receipt: await scheme.refund(url) }));
    continue;
  }
  const response = await fetchWithPayment(url);
  const header = response.headers.get("PAYMENT-RESPONSE");
  const receipt = header ? decodePaymentResponseHeader(header) : null;
  console.log(JSON.stringify({ status: response.status, body: await response.text(), receipt }));
}
