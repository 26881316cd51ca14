// A buyer with fetch, by the official wrapper: buys each page that it is told, and tells what came.
import { createInterface } from "node:readline";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { privateKeyToAccount } from "viem/accounts";

const settings = JSON.parse(process.argv[2]);
const account = privateKeyToAccount(settings.key);
const isPermit2 = (offer) => offer.extra?.assetTransferMethod === "permit2";
// Of a seller's two offers by exact, the one that is meant.
const policy = (_, offers) =>
  settings.page === "upto" ? offers : offers.filter((offer) => isPermit2(offer) === (settings.page === "permit2"));
const scheme = settings.page === "upto" ? new UptoEvmScheme(account) : new ExactEvmScheme(account);
const fetchWithPayment = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: settings.network, client: scheme }],
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
