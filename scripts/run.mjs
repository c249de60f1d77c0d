// npm start | npm test | npm run setup. Runs on any Node from 18 and depends on nothing: brings node_modules up to the
// lock file, then, under the Node that came with it, sees to torch and the native add-on, and hands over.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { environment, handOver, pinnedNode } from "../packages/massif/bin/launch.mjs";

const root = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");
const main = join(root, "packages/massif/src/cli/main.ts");
const vitest = join(root, "node_modules/vitest/vitest.mjs");

/** What Node runs after the set-up: nothing for `setup`. */
const PROGRAMS = {
  setup: () => undefined,
  start: (args) => [main, "start", ...args],
  test: (args) => [vitest, "run", ...args],
  exec: (args) => args,
};

async function run([name = "", ...args]) {
  const program = PROGRAMS[name];
  if (!program) {
    console.error(`usage: node scripts/run.mjs ${Object.keys(PROGRAMS).join(" | ")} [argument …]`);
    return 2;
  }
  process.chdir(root);
  if (!packagesAreCurrent()) {
    const code = await installPackages();
    if (code !== 0) return code;
  }
  const node = pinnedNode(root);
  if (!node) {
    console.error(
      `there is no Node 26 for ${process.platform} ${process.arch} in node_modules, and this is Node ${process.versions.node}`,
    );
    console.error("  to fix: install Node 26 (https://nodejs.org) and start again with it");
    return 1;
  }
  const env = environment(process.env);
  const code = await handOver(node, [join(root, "scripts/setup.ts"), ...(name === "setup" ? ["--report"] : [])], env);
  const command = program(args);
  return code === 0 && command ? handOver(node, command, env) : code;
}

/** Whether node_modules is what package-lock.json says, by the list that npm leaves in it when it has finished. */
function packagesAreCurrent() {
  const wanted = packagesOf("package-lock.json");
  const present = packagesOf("node_modules/.package-lock.json");
  return Object.entries(wanted).every(([path, { version, integrity, optional, os, cpu, libc }]) => {
    if (!path.startsWith("node_modules/")) return true;
    const found = present[path];
    if (found) return found.version === version && found.integrity === integrity;
    // Only packages for other machines may be missing (and what those need, which names no machine at all). Which libc
    // this is we cannot tell; npm could.
    const forUs = os?.includes(process.platform) && cpu?.includes(process.arch) && !libc;
    return optional === true && !forUs;
  });
}

function packagesOf(file) {
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")).packages : {};
}

async function installPackages() {
  console.error("npm packages: npm ci … (about 10 s)");
  const began = Date.now();
  const code = await handOver("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"], process.env);
  if (code === 0) console.error(`npm packages: done in ${((Date.now() - began) / 1000).toFixed(0)} s`);
  else
    console.error(
      "npm packages: npm ci failed\n  to fix: look at npm's message above; is the registry in reach (npm ping)?",
    );
  return code;
}

process.exitCode = await run(process.argv.slice(2));
