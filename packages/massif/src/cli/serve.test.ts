import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { saveModel } from "../model/index.ts";
import { byteTokenizer, tinyModel } from "../server/testing-model.ts";
import { saveTokenizer } from "../tokenizer/index.ts";

// `massif serve` and `massif verify` from the outside, over a checkpoint of random weights.
const root = resolve(import.meta.dirname, "../../../..");
let box: string;
const children: ChildProcess[] = [];

beforeAll(async () => {
  box = mkdtempSync(join(tmpdir(), "massif-serve-"));
  const model = tinyModel(5, 8192);
  saveModel(model, box);
  model.dispose();
  await saveTokenizer(byteTokenizer(), box);
});
afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(box, { recursive: true });
});

function massif(...args: string[]): ChildProcess {
  const main = join(root, "packages/massif/src/cli/main.ts");
  const child = spawn(process.execPath, [main, ...args], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  return child;
}

/** Runs to the end. */
async function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = massif(...args);
  let [stdout, stderr] = ["", ""];
  child.stdout!.on("data", (piece) => (stdout += piece));
  child.stderr!.on("data", (piece) => (stderr += piece));
  const [code] = await once(child, "close");
  return { code, stdout, stderr };
}

/** Starts a server and waits for its address. */
async function serving(...args: string[]): Promise<{ child: ChildProcess; url: string }> {
  const child = massif("serve", "--port", "0", ...args);
  let text = "";
  child.stderr!.on("data", (piece) => (text += piece));
  for await (const piece of child.stdout!) {
    text += piece;
    const url = /at (http:\S+)/.exec(text)?.[1];
    if (url) return { child, url };
  }
  throw new Error(text);
}

test("serve, verify it, put a gateway before it, verify that, and end decently", async () => {
  const engine = await serving("--model", box, "--exact");
  const score = await run("verify", `${engine.url}/v1`, "--max-tokens", "400", "--json");
  const { passed, scores, streamIsWhole } = JSON.parse(score.stdout);
  expect(scores.whole.schemaAccuracy).toEqual({ good: 16, of: 16 });
  expect(scores.stream.schemaAccuracy).toEqual({ good: 16, of: 16 });
  expect([score.code, passed, streamIsWhole]).toEqual([0, true, { good: 16, of: 16 }]);

  const gateway = await serving("--upstream", `${engine.url}/v1`, "--name", "k2", "--tokenizer", box);
  const file = join(box, "one.jsonl");
  writeFileSync(file, '{"type":"object","properties":{"city":{"type":"string","maxLength":5}},"required":["city"]}\n');
  const second = await run("verify", `${gateway.url}/v1`, "--max-tokens", "200", "--schemas", file);
  expect(second.stdout).toMatch(/^k2 at .*schema accuracy +100\.0 % \(1\/1\) +100\.0 % \(1\/1\).*passed\n$/s);
  expect(second.code).toBe(0);
  const metrics = await (await fetch(`${gateway.url}/metrics`)).text();
  expect(metrics).toMatch(/massif:tool_calls_total\{model_name="k2",outcome="valid"\} 2/);

  for (const { child } of [gateway, engine]) {
    child.kill("SIGTERM");
    expect(await once(child, "exit")).toEqual([0, null]);
  }
});

test.each([
  [["serve"], 2, "either --model DIR or --upstream URL"],
  [["serve", "--model", "x", "--upstream", "http://x/v1"], 2, "either --model DIR or --upstream URL"],
  [["serve", "--model", "x", "--host", "0.0.0.0", "--port", "0"], 1, "--api-key-file"],
  [["serve", "--model", "nowhere", "--port", "0"], 2, "no model in nowhere"],
  [["serve", "--upstream", "http://127.0.0.1:9/v1", "--port", "0"], 1, "--upstream-model"],
  [["serve", "--model", "x", "--template", "thinkin"], 1, "did you mean thinking"],
  [["verify"], 2, "no URL"],
  [["verify", "http://127.0.0.1:9/v1"], 1, "name the model with --model"],
  [["verify", "http://127.0.0.1:9/v1", "--model", "m", "--schemas", "/dev/null"], 2, "no row in /dev/null"],
] as const)("%j says what is wrong", async (args, code, text) => {
  const result = await run(...args);
  expect(result).toMatchObject({ code, stdout: "", stderr: expect.stringContaining(text) });
});
