// A buyer with axios, by the official wrapper: buys each page that it is told, and tells what came.
import { createInterface } from "node:readline";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { decodePaymentResponseHeader, wrapAxiosWithPayment, x402Client } from "@x402/axios";
import axios from "axios";
import { privateKeyToAccount } from "viem/accounts";

const settings = JSON.parse(process.argv[2]);
const account = privateKeyToAccount(settings.key);
const isPermit2 = (offer) => offer.extra?.assetTransferMethod === "permit2";
// Of a seller's two offers by exact, the one that is meant.
const policy = (_, offers) =>
  settings.page === "upto" ? offers : offers.filter((offer) => isPermit2(offer) === (settings.page === "permit2"));
const scheme = settings.page === "upto" ? new UptoEvmScheme(account) : new ExactEvmScheme(account);
const client = new x402Client().register(settings.network, scheme).registerPolicy(policy);
const http = wrapAxiosWithPayment(axios.create({ responseType: "text" }), client);

console.log("{}");
for await (const line of createInterface({ input: process.stdin })) {
  const response = await http.get(JSON.parse(line).url);
  const header = response.headers["payment-response"];
  const receipt = header ? decodePaymentResponseHeader(header) : null;
  console.log(JSON.stringify({ status: response.status, body: response.data, receipt }));
}
