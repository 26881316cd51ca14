// A buyer with axios, by the official wrapper: buys each page that it is told, and tells what came.
import { createInterface } from "node:readline";
import { decodePaymentResponseHeader, wrapAxiosWithPayment, x402Client } from "@x402/axios";
import axios from "axios";
import { makeScheme, policy, settings } from "./buying.mjs";

const scheme = makeScheme();
const client = new x402Client().register(settings.network, scheme).registerPolicy(policy);
// The core that this package brings knows no hooks of schemes.
const sees = scheme.schemeHooks?.onBeforePaymentCreation;
if (sees) client.onBeforePaymentCreation(sees);
let made; // what the scheme wants to see again with the answer
client.onAfterPaymentCreation(async (context) => {
  made = { paymentPayload: context.paymentPayload, requirements: context.selectedRequirements };
});
const http = wrapAxiosWithPayment(axios.create({ responseType: "text" }), client);

console.log("{}");
for await (const line of createInterface({ input: process.stdin })) {
  const response = await http.get(JSON.parse(line).url);
  const header = response.headers["payment-response"];
  const receipt = header ? decodePaymentResponseHeader(header) : null;
  if (receipt) await scheme.schemeHooks?.onPaymentResponse?.({ ...made, settleResponse: receipt });
  console.log(JSON.stringify({ status: response.status, body: response.data, receipt }));
}
