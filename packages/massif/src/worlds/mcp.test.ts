import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { expect, test } from "vitest";
import { SAY } from "./mcp.ts";
import { script } from "./oracle.ts";
import { Replayer } from "./replay.ts";
import { openWorld } from "./shipped.ts";
import { WorldEnvironment } from "./world-environment.ts";

const main = resolve(import.meta.dirname, "../cli/main.ts");

test("an MCP client plays an episode over stdio, sees no verifier, and its record is accepted", async () => {
  const folder = mkdtempSync(join(tmpdir(), "massif-mcp-"));
  const out = join(folder, "episode.jsonl");
  const env = new WorldEnvironment(openWorld("ledger"));
  env.reset(4);
  const right = script(env.inside.task);
  const client = new Client({ name: "test", version: "1" });
  await client.connect(
    new StdioClientTransport({
      command: process.execPath,
      args: [main, "world", "serve", "ledger", "--seed", "4", "--out", out],
    }),
  );
  try {
    const { tools } = await client.listTools();
    expect(tools.map((t) => t.name)).toEqual(["read", "transfer", SAY]);
    expect(client.getInstructions()).toContain(env.inside.task.opening);
    expect(JSON.stringify(await client.getPrompt({ name: "task" }))).toContain(env.inside.task.opening);
    const unknown = await client.callTool({ name: "score", arguments: {} });
    expect(unknown).toMatchObject({ isError: true, content: [{ text: '{"error":"unknown_tool"}' }] });
  } finally {
    await client.close();
  }
  // A clean episode: the slip above counts as an invalid call, which the ledger does not forgive.
  const player = new Client({ name: "test", version: "1" });
  await player.connect(
    new StdioClientTransport({
      command: process.execPath,
      args: [main, "world", "serve", "ledger", "--seed", "4", "--out", out],
    }),
  );
  try {
    for (const action of right.actions)
      if ("call" in action) await player.callTool({ name: action.call, arguments: action.args });
    const last = await player.callTool({ name: SAY, arguments: { text: right.answer } });
    expect(last).toMatchObject({ content: [{ text: "(the user has gone)" }] });
    expect(await player.callTool({ name: "read", arguments: { account: "anna" } })).toMatchObject({ isError: true });
  } finally {
    await player.close();
  }
  const rows = readFileSync(out, "utf8").trim().split("\n");
  const replayer = new Replayer(openWorld);
  expect(replayer.verify(JSON.parse(rows.at(-1) ?? ""))).toEqual({ accepted: true });
  rmSync(folder, { recursive: true });
});
