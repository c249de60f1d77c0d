#!/usr/bin/env node
// `massif …` from any Node: starts the pinned one on the command line, with the environment that torch wants.
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { environment, handOver, isReady, pinnedNode } from "./launch.mjs";

const main = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));

if (isReady(process.env)) {
  await import(main);
} else {
  const node = pinnedNode(dirname(main));
  if (node) {
    process.exitCode = await handOver(node, [main, ...process.argv.slice(2)], environment(process.env));
  } else {
    console.error(
      `massif: this is Node ${process.versions.node}; it needs Node 26\n  to fix: npm run setup, or npm ci`,
    );
    process.exitCode = 1;
  }
}
