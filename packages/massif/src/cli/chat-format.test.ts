import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { MassifError } from "../common/index.ts";
import { k2Specials, saveTokenizer, Tokenizer } from "../tokenizer/index.ts";

import { chatFormat } from "./chat-format.ts";

const main = resolve(import.meta.dirname, "main.ts");
let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "massif-chat-"));
  const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  await saveTokenizer(new Tokenizer({ tokens, specials: k2Specials.map((t, i) => ({ ...t, id: 256 + i })) }), folder);
});
afterAll(() => rmSync(folder, { recursive: true }));

function massif(args: string[], ...rows: unknown[]) {
  const input = rows.map((row) => (typeof row === "string" ? row : JSON.stringify(row))).join("\n");
  const { stdout, stderr, status } = spawnSync(process.execPath, [main, "chat", ...args], { input, encoding: "utf8" });
  const out = stdout.split("\n").filter((line) => line.startsWith("{"));
  return { rows: out.map((line) => JSON.parse(line)), stderr, status };
}

test("render and parse are each other's way back", () => {
  const row = {
    template: "thinking",
    messages: [
      { role: "system", content: "" },
      { role: "assistant", content: "é <|im_end|>", reasoning_content: "r" },
    ],
    tools: [{ type: "function", function: { name: "f", description: "d" } }],
  };
  const rendered = massif(["render", "--tokenizer", folder, "--keep-reasoning", "--sources"], row);
  const [{ ids, sources, messages, ...texts }] = rendered.rows;
  const rest =
    "<|im_system|>system<|im_middle|><|im_end|><|im_assistant|>assistant<|im_middle|><think>r</think>é <|im_end|><|im_end|>";
  expect(texts).toEqual({
    rendered: `<|im_system|>tool_declare<|im_middle|>[{"type": "function", "function": {"name": "f", "description": "d"}}]<|im_end|>${rest}`,
    rendered_sorted_compact_tools: `<|im_system|>tool_declare<|im_middle|>[{"function":{"description":"d","name":"f"},"type":"function"}]<|im_end|>${rest}`,
  });
  const written = ids.filter((_: number, i: number) => sources[i] === "assistant" && messages[i] === 1);
  const parsed = massif(["parse", "--tokenizer", folder], { template: "thinking", ids: written });
  expect(parsed.rows).toEqual([
    {
      message: { role: "assistant", content: "é <|im_end|>", reasoning_content: "r" },
      events: [
        { type: "reasoning", text: "r" },
        { type: "text", text: "é <|im_end|>" },
        { type: "finish", reason: "stop" },
      ],
      finish: "stop",
    },
  ]);
});

test("a chosen style of tools is the one that is rendered", () => {
  const row = { template: "thinking", messages: [], tools: [{ type: "function", function: { name: "f" } }] };
  const styled = (...args: string[]) => massif(["render", ...args], row).rows[0].rendered.split("<|im_end|>")[0];
  const head = "<|im_system|>tool_declare<|im_middle|>";
  expect(styled("--sort-tools")).toBe(`${head}[{"function":{"name":"f"},"type":"function"}]`);
  expect(styled("--tools", "typescript")).toBe(
    `${head}# Tools\n\n## functions\nnamespace functions {\ntype f = (_: {}) => any;\n}\n`,
  );
});

test("think tags are text from an Instruct model, and the engine's word on the end counts", () => {
  const { rows } = massif(
    ["parse"],
    { text: "<think>a", template: "instruct" },
    { text: "a", finish_reason: "length" },
  );
  expect(rows.map((row) => [row.message, row.finish])).toEqual([
    [{ role: "assistant", content: "<think>a" }, "stop"],
    [{ role: "assistant", content: "a" }, "length"],
  ]);
});

test("errors name the row", async () => {
  const good = { template: "thinking", messages: [] };
  const file = join(folder, "rows.jsonl");
  const failure = async (args: string[], ...rows: object[]) => {
    writeFileSync(file, rows.map((row) => JSON.stringify(row)).join("\n"));
    const error: unknown = await chatFormat.run([...args, file]).catch((error: unknown) => error);
    return error instanceof MassifError ? error.trouble.found : error;
  };
  const image = { ...good, messages: [{ role: "user", content: [{ type: "image_url" }] }] };
  expect(await failure(["render"], good, image)).toBe(
    "row 2: messages[0].content[0].type: only text parts: K2 reads no images, audio or files",
  );
  expect(await failure(["render"], { messages: [] })).toBe("row 1: template undefined");
  expect(await failure(["parse"], { text: "a" }, {})).toBe("row 2: neither ids nor text");
  expect(await failure(["parse"], { ids: [1] })).toBe("row 1: ids, and no tokenizer to read them");
  expect(await failure(["parse", "--tokenizer", folder], { ids: [9999] })).toBe("row 1: 9999 is not the id of a token");
  expect(await failure(["rendr"])).toBe("massif chat rendr");
  expect(await failure(["render", "--tools", "xml"])).toBe("--tools xml");
  const { status, stderr } = massif(["parse"], "nope");
  expect([status, stderr.slice(0, 36)]).toEqual([1, "massif: standard input:1 is not JSON"]);
});
