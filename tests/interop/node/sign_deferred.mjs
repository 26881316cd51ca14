// Makes payments by docs/examples/deferred-client.mjs, for tests: reads an offer and a page a line, and tells the
// payment or the error.
import { createInterface } from "node:readline";
import { hashTypedData } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { DeferredClientScheme } from "../../../docs/examples/deferred-client.mjs";

const { key, operator, salt, file } = JSON.parse(process.argv[2]);
const scheme = new DeferredClientScheme({ account: privateKeyToAccount(key), hashTypedData, operator, salt, file });
for await (const line of createInterface({ input: process.stdin })) {
  const { offer, url } = JSON.parse(line);
  const context = { paymentRequired: { resource: { url } }, selectedRequirements: offer };
  await scheme.schemeHooks.onBeforePaymentCreation(context);
  const failed = ({ message }) => ({ error: message });
  console.log(JSON.stringify(await scheme.createPaymentPayload(2, offer).catch(failed)));
}
