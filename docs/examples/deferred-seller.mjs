// A seller in Node, without packages: `deferred` over HTTP, and the aggregator does not learn which page was bought.
//   FACILITATOR=http://127.0.0.1:8402 TOKEN=… PAY_TO=0x… ASSET=0x… PRICE=1000 PORT=8000 node deferred-seller.mjs
import { createHash } from "node:crypto";
import { createServer } from "node:http";

const { FACILITATOR, TOKEN, PAY_TO, ASSET, PRICE = "1000", PORT = "0" } = process.env;
const PAGES = { "/articles/1": "The first article.", "/articles/2": "The second article." };
const NAMED = { "payment-identifier": { info: { required: true } } };
const made = new Map(); // pages by payment: who lost an answer sends the same payment again, and gets it again
class AwayError extends Error {}

const sha256 = (...parts) => createHash("sha256").update(Buffer.concat(parts)).digest();
const length = (part) => new Uint8Array(new Uint32Array([Buffer.byteLength(part)]).buffer).reverse(); // 4 bytes
const frame = (part) => Buffer.concat([length(part), Buffer.from(part)]);
const read = (text) => JSON.parse(Buffer.from(text, "base64").toString());
const write = (value) => Buffer.from(JSON.stringify(value)).toString("base64");

export function normalTarget(raw) {
  const text = raw.split("#", 1)[0].replace(/%([0-9A-Fa-f]{2})|[^\w\-.~:/?[\]@!$&'()*+,;=]/g, (found, escape) => {
    const char = escape ? String.fromCharCode(parseInt(escape, 16)) : found;
    const code = char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0");
    return escape && /[\w\-.~]/.test(char) ? char : `%${code}`;
  });
  const [, path, query] = /^([^?]*)\??(.*)$/s.exec(text.replace(/^[A-Za-z][A-Za-z0-9+.-]*:\/\/[^/?#]*/, ""));
  return (path || "/") + (query && `?${query}`);
}

export function boundHash(method, target, body, blind) {
  const parts = ["tallystick/request/1", method, normalTarget(target), body.length ? sha256(body) : ""];
  const plain = sha256(...parts.map(frame));
  const blinded = blind && sha256(...["tallystick/blind/1", Buffer.from(blind.slice(2), "hex"), plain].map(frame));
  return `0x${(blinded || plain).toString("hex")}`;
}

export function withoutPage({ resource, extensions, payload: { blind, ...payload }, ...payment }) {
  return { ...payment, payload, extensions: { "payment-identifier": extensions["payment-identifier"] } };
}

async function ask(path, message) {
  const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
  const body = message && JSON.stringify(message);
  const response = await fetch(FACILITATOR + path, { method: body ? "POST" : "GET", headers, body }).catch(() => ({}));
  if (!response.ok) throw new AwayError(`the facilitator answered ${response.status ?? "nothing"}`);
  return response.json();
}

async function sell(offer, { method, url, headers }, body) {
  const header = headers["payment-signature"];
  const resource = { url: `http://${headers.host}${normalTarget(url)}` };
  const refuse = (error) =>
    [402, { "payment-required": write({ x402Version: 2, error, resource, accepts: [offer], extensions: NAMED }) }, error];
  if (!header) return refuse("PAYMENT-SIGNATURE header is required");
  const payment = read(header);
  if (["scheme", "network", "amount", "asset", "payTo"].some((name) => payment.accepted[name] !== offer[name]))
    return refuse("amount_mismatch: accept the offer as it stands");
  if (payment.payload.requestHash !== boundHash(method, url, body, payment.payload.blind))
    return refuse("request_mismatch: the payment is bound to another request");
  const message = { x402Version: 2, paymentPayload: withoutPage(payment), paymentRequirements: offer };
  if (!made.has(header)) {
    const verified = await ask("/verify", message);
    if (verified.invalidReason === "payment_pending") return [409, { "retry-after": "1" }, verified.invalidReason];
    if (!verified.isValid) return refuse(verified.invalidReason);
    if (made.set(header, PAGES[url]).size > 1000) made.delete(made.keys().next().value); // made only now
  }
  const page = made.get(header); // given away only after the money is taken, and that is taken once
  const settled = await ask("/settle", message);
  if (!settled.success) return refuse(settled.errorReason);
  return [200, { "payment-response": write(settled), "cache-control": "private" }, page];
}

if (FACILITATOR) {
  const { scheme, network, extra } = (await ask("/supported")).kinds.find((kind) => kind.scheme === "deferred");
  const terms = { amount: PRICE, asset: ASSET, payTo: PAY_TO, maxTimeoutSeconds: 60 };
  const offer = { scheme, network, ...terms, extra: { ...extra, blinding: true } };
  const server = createServer(async (request, response) => {
    const body = Buffer.concat(await Array.fromAsync(request));
    const failed = (error) => [error instanceof AwayError ? 503 : 400, {}, String(error)];
    const [status, headers, page] = PAGES[request.url] ? await sell(offer, request, body).catch(failed) : [404, {}, ""];
    response.writeHead(status, headers).end(page);
  });
  server.listen(Number(PORT), "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
}
