import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, expect, test } from "vitest";
import { type Script, ScriptedModel } from "../llm/index.ts";
import { scripted, weather } from "../server/testing.ts";
import { converse } from "./conversation.ts";

const folder = mkdtempSync(join(tmpdir(), "massif-conversation-"));
afterAll(() => rmSync(folder, { recursive: true }));

async function talk(
  script: Script,
  lines: string[],
  more: { terminal?: boolean; system?: string; now?: () => number } = {},
) {
  const model = new ScriptedModel(script);
  const [input, out, aside] = [new PassThrough(), new PassThrough(), new PassThrough()];
  input.end(lines.map((line) => `${line}\n`).join(""));
  const tools = [weather];
  const answered = await converse({ model, tools, input, out, aside, terminal: false, ...more });
  const asked = model.requests.map(({ messages }) => messages.map(({ role, content }) => `${role}: ${content}`));
  const read = async (stream: PassThrough) => Buffer.concat(await stream.end().toArray()).toString();
  return { answered, asked, model, out: await read(out), aside: await read(aside) };
}

test("each line is a message; answers alone go to the output", async () => {
  const script = [{ text: "Hello." }, { reasoning: "Hm.", text: "Four." }];
  const { out, aside, asked, answered } = await talk(script, ["Hi", "", "2+2?"], { system: "Be brief." });
  expect([out, aside, answered]).toEqual(["Hello.\nFour.\n", "Hm.\n", true]);
  expect(asked).toEqual([
    ["system: Be brief.", "user: Hi"],
    ["system: Be brief.", "user: Hi", "assistant: Hello.", "user: 2+2?"],
  ]);
});

test("a call is shown, and the next line is its result", async () => {
  const script = [{ calls: [{ name: "get_weather", arguments: { city: "Oslo" } }] }, { text: "Rain." }];
  const { out, aside, model } = await talk(script, ["Oslo?", '{"sky":"rain"}']);
  expect([out, aside]).toEqual(["Rain.\n", '→ get_weather {"city":"Oslo"}\n']);
  expect(model.requests[1]!.messages.slice(1)).toMatchObject([
    { role: "assistant", tool_calls: [{ id: "functions.get_weather:0", function: { arguments: '{"city":"Oslo"}' } }] },
    { role: "tool", tool_call_id: "functions.get_weather:0", content: '{"sky":"rain"}' },
  ]);
});

test("commands", async () => {
  const file = join(folder, "saved.jsonl");
  const lines = ["one", "/reset", "/system Rhyme.", "two", `/save ${file}`, "/sav", "/exit", "never"];
  const { asked, aside } = await talk([{ text: "1" }, { text: "2" }], lines);
  expect(asked).toEqual([["user: one"], ["system: Rhyme.", "user: two"]]);
  expect(aside).toBe(
    `forgotten\nfrom the next message on\n3 messages in ${file}\nthere is no /sav; did you mean /save?\n`,
  );
  expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({
    messages: [
      { role: "system", content: "Rhyme." },
      { role: "user", content: "two" },
      { role: "assistant", content: "2" },
    ],
    tools: [weather],
  });
});

test("a message without an answer is taken back, and the exit code will tell", async () => {
  const { LlmError } = await import("../llm/index.ts");
  const failing = { text: "be", error: new LlmError("llm.cut", { found: "the line went dead" }) };
  const { asked, aside, out, answered } = await talk([failing, { text: "b" }], ["a", "again"]);
  expect(asked).toEqual([["user: a"], ["user: again"]]);
  expect([out, answered]).toEqual(["be\nb\n", false]);
  expect(aside).toContain("the line went dead");
});

test("no control character of a model's reaches the terminal", async () => {
  const attack = "\x1b]0;owned\x07\x1b[2Jé\u009b31m\r\tx";
  const { out, aside } = await talk([{ text: attack, reasoning: attack }], ["Hi"], { terminal: true, now: () => 0 });
  const shown = "␛]0;owned␇␛[2Jé\ufffd31m␍\tx";
  expect(out).toBe(`${shown}\n`);
  // Four characters an event, each dimmed.
  expect(aside.replaceAll(/\x1b\[(2|22)m/g, "")).toContain(`${shown}\n`);
  const piped = await talk([{ text: attack }], ["Hi"]);
  expect(piped.out).toBe(`${attack}\n`);
});

test("lines that are pasted together are one message, sent by the Enter after them", async () => {
  const typed = ["\x1b[200~def f():\r  return 1\r\x1b[201~?", "next"];
  const { asked, aside } = await talk([{ text: "1" }, { text: "2" }], typed, { terminal: true });
  expect(asked.at(-1)).toEqual(["user: def f():\n  return 1\n?", "assistant: 1", "user: next"]);
  expect(aside.startsWith("\x1b[?2004h")).toBe(true);
  expect(aside.endsWith("\x1b[?2004l")).toBe(true);
});

const main = resolve(import.meta.dirname, "main.ts");
/** `massif chat` as a process; `on` is called with all of its output so far whenever more comes. */
function massif(args: string[], on: (out: string, child: ReturnType<typeof spawn>) => void = () => {}) {
  const child = spawn(process.execPath, [main, "chat", ...args], { stdio: ["pipe", "pipe", "pipe"] });
  let [out, aside] = ["", ""];
  child.stdout.on("data", (data) => on((out += data), child));
  child.stderr.on("data", (data) => (aside += data));
  const ended = new Promise<{ code: number | null; out: string; aside: string }>((resolve) => {
    child.on("close", (code) => resolve({ code, out, aside }));
  });
  return { child, ended };
}

test("against a server: the first model it lists, sampling, tools; Ctrl-C stops the answer only", async () => {
  await using server = await scripted([{ text: "endless ".repeat(5000), pause: 5 }, { text: "Good bye." }]);
  const file = join(folder, "tools.json");
  writeFileSync(file, JSON.stringify([weather]));
  let stopped = false;
  const { child, ended } = massif(
    ["--url", server.url, "--system", "S", "--tools", file, "--temperature", "0.5", "--max-tokens", "9"],
    (out, child) => {
      if (!stopped && out.includes("endless")) stopped = child.kill("SIGINT");
    },
  );
  child.stdin!.end("go\nbye\n");
  const { code, out, aside } = await ended;
  expect([code, aside]).toEqual([0, "stopped\n"]);
  expect(out).toMatch(/^(endless ?|[endlss ]{1,8})+\nGood bye\.\n$/);
  expect(server.model.requests).toMatchObject([
    { tools: [weather], sampling: { temperature: 0.5, maxTokens: 9 }, messages: [{ content: "S" }, { content: "go" }] },
    { messages: [{ content: "S" }, { content: "go" }, { role: "assistant" }, { content: "bye" }] },
  ]);
  // The server learned that nobody reads on.
  expect(server.service.slots.held).toBe(0);
});

test("a wrong call says what is right", async () => {
  const wrong = async (...args: string[]) => {
    const { child, ended } = massif(args);
    child.stdin!.end();
    const { code, aside } = await ended;
    return [code, aside.split("\n")[0]];
  };
  expect(await wrong()).toEqual([2, "massif: no model"]);
  expect(await wrong("--url", "http://127.0.0.1:1", "--top-p", "3")).toEqual([
    2,
    "massif: --top-p 3: Too big: expected number to be <=1",
  ]);
  const server = await scripted([]);
  await server.close();
  expect(await wrong("--url", server.url)).toEqual([
    1,
    `massif: ${server.url}/v1/models: connect ECONNREFUSED ${new URL(server.url).host}`,
  ]);
});
