#!/usr/bin/env node
// An EVM under the rules of a hard fork that no development chain knows yet, for tests: `node evm.mjs amsterdam`.
// One JSON object a line comes in, one goes out. Addresses, data and keys are hex, gas is a number.
//
//   {"key", "to"?, "data", "gas", "keep"?}  a transaction; without `to` it creates a contract. With "keep": false its
//                                           effects are undone, which is how gas is estimated.
//   answer: {"ok", "gas_used", "state_gas", "output", "created"?, "logs": [{"address", "topics", "data"}]}
//           or {"refused": "..."} for a transaction that no block may take
//   {"time": seconds}                       moves the clock; the answer is {}
import { createInterface } from "node:readline";
import { createBlock } from "@ethereumjs/block";
import { createCustomCommon, Hardfork, Mainnet } from "@ethereumjs/common";
import { createFeeMarket1559Tx } from "@ethereumjs/tx";
import { Account, bytesToHex, createAddressFromPrivateKey, hexToBytes } from "@ethereumjs/util";
import { createVM, runTx } from "@ethereumjs/vm";

const CHAIN_ID = 31337;
const BLOCK_GAS = 200_000_000;
const BASE_FEE = 7n;

const hardfork = Object.values(Hardfork).find((name) => name === process.argv[2]);
if (hardfork === undefined) {
  console.error(`evm.mjs: got ${process.argv[2]}, allowed ${Object.values(Hardfork).join(" ")}`);
  process.exit(1);
}
const common = createCustomCommon({ chainId: CHAIN_ID }, Mainnet, { hardfork });
const vm = await createVM({ common });
let time = 1_800_000_000;

function block() {
  const header = { number: 1, timestamp: time, gasLimit: BLOCK_GAS, baseFeePerGas: BASE_FEE };
  return createBlock({ header }, { common, freeze: false });
}

async function run({ key, to, data, gas, keep = true }) {
  const secret = hexToBytes(key);
  const sender = createAddressFromPrivateKey(secret);
  const account = (await vm.stateManager.getAccount(sender)) ?? new Account();
  account.balance = 10n ** 24n;
  await vm.stateManager.putAccount(sender, account);
  const fields = { chainId: CHAIN_ID, nonce: account.nonce, to, data, gasLimit: gas, maxFeePerGas: BASE_FEE };
  await vm.evm.journal.checkpoint();
  let result;
  try {
    const tx = createFeeMarket1559Tx({ ...fields, maxPriorityFeePerGas: 0n }, { common }).sign(secret);
    result = await runTx(vm, { tx, block: block() });
  } catch (error) {
    await vm.evm.journal.revert();
    return { refused: error.message };
  }
  await (keep ? vm.evm.journal.commit() : vm.evm.journal.revert());
  return {
    ok: result.execResult.exceptionError === undefined,
    gas_used: Number(result.totalGasSpent),
    state_gas: Number(result.txStateGas ?? 0n),
    output: bytesToHex(result.execResult.returnValue),
    created: result.execResult.exceptionError ? undefined : result.createdAddress?.toString(),
    logs: (result.execResult.logs ?? []).map(([address, topics, body]) => ({
      address: bytesToHex(address),
      topics: topics.map(bytesToHex),
      data: bytesToHex(body),
    })),
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  if ("time" in request) time = request.time;
  console.log(JSON.stringify("time" in request ? {} : await run(request)));
}
