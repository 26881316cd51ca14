// A buyer with fetch, by the official wrapper: buys each page that it is told, and tells what came.
import { createInterface } from "node:readline";
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { makeScheme, policy, settings } from "./buying.mjs";

const fetchWithPayment = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: settings.network, client: makeScheme() }],
  policies: [policy],
  spendControls: { allowedAssets: true }, // a token that the package does not know
});

console.log("{}");
for await (const line of createInterface({ input: process.stdin })) {
  const response = await fetchWithPayment(JSON.parse(line).url);
  const header = response.headers.get("PAYMENT-RESPONSE");
  const receipt = header ? decodePaymentResponseHeader(header) : null;
  console.log(JSON.stringify({ status: response.status, body: await response.text(), receipt }));
}
