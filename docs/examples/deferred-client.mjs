// Pays by `deferred` in the official npm clients: a client scheme for @x402/fetch, @x402/axios or @x402/core, without
// packages of its own. It pays from a deposit, by vouchers; see ../reference/deferred-http.md.
//
//   export TALLYSTICK_OPERATOR=operator.json TALLYSTICK_KEY=file:payer.key  # the operator's terms, the payer's key
//   tallystick wallet deposit 2 --wallet node.db      # without gas; a wallet file for this alone
//   tallystick wallet status --json --wallet node.db  # tells the account's salt
//
//   const scheme = new DeferredClientScheme({
//     account: privateKeyToAccount(key), hashTypedData,                    // both of viem
//     operator: JSON.parse(readFileSync("operator.json")), salt, file: "ceilings.json",
//   });
//   const client = new x402Client().register("eip155:8453", scheme);
//   client.onBeforePaymentCreation(scheme.schemeHooks.onBeforePaymentCreation); // with @x402/axios 2.11, else needless
//   client.setSpendControls({ allowedAssets: true });     // for a token that the client does not know, as a test token
//
// It buys by GET, without a body. A page that is asked for again is another payment. What was signed for a seller is in
// `file` before it is sent, and the seller may take all of it: one process at a time, and never without the file.
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { boundHash } from "./deferred-seller.mjs";

const field = (name, type) => ({ name, type });
const ADDRESSES = ["payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token"];
const DELAY_AND_SALT = [field("withdrawDelay", "uint40"), field("salt", "bytes32")];
const CONFIG = [...ADDRESSES.map((name) => field(name, "address")), ...DELAY_AND_SALT];
const VOUCHER = [field("channelId", "bytes32"), field("maxClaimableAmount", "uint128")];

export class DeferredClientScheme {
  scheme = "deferred";
  // The client tells a scheme what to pay, and this hook for which page: by the 402's own word.
  schemeHooks = {
    onBeforePaymentCreation: async ({ paymentRequired, selectedRequirements }) => {
      this.#urls.set(selectedRequirements, paymentRequired.resource?.url);
    },
  };
  #urls = new WeakMap();

  constructor({ account, hashTypedData, operator, salt, file }) {
    Object.assign(this, { account, hashTypedData, operator, salt, file });
  }

  async createPaymentPayload(x402Version, offer) {
    this.#check(offer);
    const { escrow, receiverAuthorizer, withdrawDelay, name, version, blinding } = offer.extra;
    const payer = this.account.address;
    const parties = { payer, payerAuthorizer: payer, receiver: offer.payTo, receiverAuthorizer, token: offer.asset };
    const channelConfig = { ...parties, withdrawDelay, salt: this.salt };
    const domain = { name, version, chainId: Number(offer.network.split(":")[1]), verifyingContract: escrow };
    const types = { ChannelConfig: CONFIG, Voucher: VOUCHER };
    const channelId = this.hashTypedData({ domain, types, primaryType: "ChannelConfig", message: channelConfig });
    const maxClaimableAmount = this.#raise(channelId, BigInt(offer.amount));
    const message = { channelId, maxClaimableAmount };
    const signature = await this.account.signTypedData({ domain, types, primaryType: "Voucher", message });
    const { pathname, search } = new URL(this.#urls.get(offer));
    const blind = blinding ? { blind: `0x${randomBytes(16).toString("hex")}` } : {};
    const requestHash = boundHash("GET", pathname + search, Buffer.alloc(0), blind.blind);
    const voucher = { channelId, maxClaimableAmount: String(maxClaimableAmount), signature };
    const payload = { type: "voucher", channelConfig, voucher, requestHash, ...blind };
    return { x402Version, payload, extensions: { "payment-identifier": { info: { required: true, id: uuid7() } } } };
  }

  // The allow-list decides, not the 402: what is deposited with one operator is never promised through another.
  #check({ network, asset, extra }) {
    const { operator, escrow, withdraw_delay_s, network: served, tokens } = this.operator;
    const allowed = { network: served, escrow, receiverAuthorizer: operator, withdrawDelay: withdraw_delay_s };
    const offered = { ...extra, network };
    for (const name of Object.keys(allowed))
      if (String(offered[name]).toLowerCase() !== String(allowed[name]).toLowerCase())
        throw new Error(`${name}: got ${offered[name]}, allowed ${allowed[name]}`);
    if (extra.name !== "Tallystick Escrow" || extra.version !== "1")
      throw new Error(`extra.name: got ${extra.name} ${extra.version}, allowed Tallystick Escrow 1`);
    if (!tokens.some(({ token }) => token.toLowerCase() === asset.toLowerCase()))
      throw new Error(`asset: got ${asset}, allowed ${tokens.map(({ token }) => token).join(" or ")}`);
  }

  // Each payment raises what its seller may have in total; it is on disk before it is signed.
  #raise(channelId, amount) {
    const ceilings = existsSync(this.file) ? JSON.parse(readFileSync(this.file)) : {};
    const ceiling = BigInt(ceilings[channelId] ?? 0) + amount;
    writeFileSync(`${this.file}.new`, JSON.stringify({ ...ceilings, [channelId]: String(ceiling) }), { flush: true });
    renameSync(`${this.file}.new`, this.file);
    return ceiling;
  }
}

function uuid7() {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
