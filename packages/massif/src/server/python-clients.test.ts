/** The official Python clients. Skipped unless MASSIF_CLIENTS_PYTHON names a Python with `openai` and `anthropic`:
 *  python3 -m venv clients && clients/bin/pip install openai==3.54.0 anthropic==2.12.0 */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import type { ChatRequest, Turn } from "../llm/index.ts";
import { scripted } from "./testing.ts";

const python = process.env.MASSIF_CLIENTS_PYTHON;

/** Two cities at once, in K2's own format; then what came back. */
function script({ messages, responseFormat }: ChatRequest): Turn {
  if (responseFormat?.type === "json_schema") return { text: '{"city":"Ulm","celsius":7}' };
  const results = messages.filter(({ role }) => role === "tool").map(({ content }) => String(content));
  if (results.length) return { tokens: `<think>Enough.</think>${results.join(", ")}.` };
  const calls = ["Köln", "北京"].map(
    (city, i) =>
      `<|tool_call_begin|>functions.get_weather:${i}<|tool_call_argument_begin|>{"city": "${city}"}<|tool_call_end|>`,
  );
  const section = `<|tool_calls_section_begin|>${calls.join("")}<|tool_calls_section_end|>`;
  return { tokens: `<think>Two cities.</think>I look.${section}` };
}

test.skipIf(!python)("Python's openai and anthropic (MASSIF_CLIENTS_PYTHON)", { timeout: 60_000 }, async () => {
  await using server = await scripted(script, { cut: 3 });
  const run = promisify(execFile)(python!, [join(import.meta.dirname, "clients.py"), server.url], { timeout: 50_000 });
  const read: unknown = JSON.parse((await run).stdout);
  const answer = "rain in Köln, rain in 北京.";
  expect(read).toEqual({
    ...{ openai: answer, "openai stream": answer, "openai parse": { city: "Ulm", celsius: 7 }, responses: answer },
    "anthropic runner": answer,
    "anthropic stream": [["thinking", "text", "tool_use", "tool_use"], "tool_use"],
    ...{ "anthropic error": "not_found_error", "openai error": "messages" },
  });
});
