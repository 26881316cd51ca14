// A seller on Express, by the official middleware.
import { HTTPFacilitatorClient } from "@x402/core/server";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { UptoEvmScheme } from "@x402/evm/upto/server";
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from "@x402/express";
import express from "express";
import { FacilitatorManagedScheme } from "../../../docs/examples/facilitator-managed-seller.mjs";
import { DeferredScheme } from "./deferred_scheme.mjs";

const settings = JSON.parse(process.argv[2]);
const MANAGED = "facilitator-managed";
const batch = "batch-settlement";
const schemes = { exact: "exact", permit2: "exact", upto: "upto", deferred: "deferred", "server-managed": batch, [MANAGED]: batch };

function route(page) {
  const extra = { name: settings.name, version: settings.version };
  if (page === "permit2") extra.assetTransferMethod = "permit2";
  const price = { amount: settings.amount, asset: settings.asset, extra };
  return [`GET /${page}`, { accepts: { scheme: schemes[page], network: settings.network, payTo: settings.pay_to, price } }];
}

const bearer = { Authorization: `Bearer ${settings.token}` };
const facilitator = new HTTPFacilitatorClient({
  url: settings.facilitator,
  createAuthHeaders: async () => ({ verify: bearer, settle: bearer, supported: bearer }),
});
const batches = new BatchSettlementEvmScheme(settings.pay_to);
const manager = batches.createChannelManager(facilitator, settings.network, settings.asset);
const server = new x402ResourceServer(facilitator)
  .register(settings.network, new ExactEvmScheme())
  .register(settings.network, new UptoEvmScheme())
  .register(settings.network, new DeferredScheme())
  .register(settings.network, batches);
// A server has one scheme of a name.
const managing = new x402ResourceServer(facilitator).register(settings.network, new FacilitatorManagedScheme(facilitator));

const app = express();
const routes = (chosen) => Object.fromEntries(settings.pages.filter(chosen).map(route));
app.use(paymentMiddleware(routes((page) => page !== MANAGED), server));
app.use(paymentMiddleware(routes((page) => page === MANAGED), managing));
// Claims what its channels owe, and has it paid out; costs nothing.
app.post("/claim", async (_, response) => {
  const claims = await manager.claim();
  await manager.settle(); // also of what a refund has claimed
  response.json({ claims: claims.length });
});
app.get("/:page", (request, response) => {
  const { page } = request.params;
  if (page === "upto") setSettlementOverrides(response, { amount: settings.used });
  response.json({ page });
});

const listener = app.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ url: `http://127.0.0.1:${listener.address().port}` }));
});
process.stdin.on("end", () => process.exit()).resume(); // an ended parent ends this one too
