#!/usr/bin/env node
// A front that gives npm's solc (WebAssembly) the two verbs of the native compiler that py-solc-x and forge use:
// `--version` and `--standard-json`. Other flags (`--allow-paths`, `--base-path`, ...) are accepted and ignored:
// imports are read from this folder and its node_modules, nothing else.
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";

const root = realpathSync(dirname(fileURLToPath(import.meta.url)));
const solc = createRequire(import.meta.url)("solc");

function readImport(path) {
  for (const file of [join(root, path), join(root, "node_modules", path)]) {
    if (file.startsWith(root + sep) && existsSync(file)) return { contents: readFileSync(file, "utf8") };
  }
  return { error: `${path} is neither in ${root} nor in its node_modules` };
}

if (process.argv.includes("--version")) {
  const version = solc.version().replace(".Emscripten.clang", ".Linux.g++");
  console.log(`solc, the solidity compiler commandline interface\nVersion: ${version}`);
} else if (process.argv.includes("--standard-json")) {
  process.stdout.write(solc.compile(readFileSync(0, "utf8"), { import: readImport }));
} else {
  console.error("solc.mjs knows --version and --standard-json");
  process.exit(1);
}
