// What the Node buyers have in common: a scheme for the one page that they are told, and the choice of its offer.
import { readFileSync } from "node:fs";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/client";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { hashTypedData } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { DeferredClientScheme } from "../../../docs/examples/deferred-client.mjs";

export const settings = JSON.parse(process.argv[2]);
const account = privateKeyToAccount(settings.key);
const isPermit2 = (offer) => offer.extra?.assetTransferMethod === "permit2";

// Of a seller's two offers by exact, the one that is meant.
export const policy = (_, offers) =>
  !["exact", "permit2", "deferred"].includes(settings.page) ? offers : offers.filter((offer) => isPermit2(offer) === (settings.page === "permit2"));

export function makeScheme() {
  if (settings.page === "upto") return new UptoEvmScheme(account);
  if (settings.page.endsWith("-managed")) return new BatchSettlementEvmScheme(account);
  if (settings.page !== "deferred") return new ExactEvmScheme(account);
  const operator = JSON.parse(readFileSync(settings.operator));
  const file = `${settings.book}.ceilings.json`;
  return new DeferredClientScheme({ account, hashTypedData, operator, salt: settings.salt, file });
}
