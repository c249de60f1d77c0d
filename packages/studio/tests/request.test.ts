import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { type Answer, newAnswer, open, rate, take } from "../page/answer.ts";
import { bodyOf, curlOf, noSettings, problemsOf } from "../page/request.ts";
import { readEvents } from "../page/wire.ts";

test("what is left empty is not sent", () => {
  expect(bodyOf({ ...noSettings, model: "m" }, [{ role: "user", content: "Hi" }])).toEqual({
    model: "m",
    messages: [{ role: "user", content: "Hi" }],
    stream: true,
    stream_options: { include_usage: true },
  });
});

test("what is set is sent, and more fields come over all others", () => {
  const settings = {
    ...{ ...noSettings, model: "m", temperature: " 0.5", topK: "3", stop: "a\n\nb", thinking: "disabled" as const },
    ...{ tools: '[{"type":"function","function":{"name":"f"}}]', toolChoice: "f", extra: '{"top_k": 4, "n": 1}' },
  };
  expect(problemsOf(settings)).toEqual({});
  expect(bodyOf(settings, [])).toMatchObject({
    ...{ temperature: 0.5, top_k: 4, n: 1, stop: ["a", "b"], thinking: { type: "disabled" } },
    tool_choice: { type: "function", function: { name: "f" } },
  });
});

test("problems name the field", () => {
  const tools = '[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}]';
  expect(problemsOf({ ...noSettings, topK: "1.5", minP: "x", tools, extra: "[]" })).toEqual({
    topK: "a whole number from 1 to 1000000",
    minP: "a number from 0 to 1",
    tools: "tools[1].function.name: a second tool f",
    extra: 'an object: {"response_format": …}',
  });
});

test("an answer that was stopped in a call is sent back without it", () => {
  const answer = (more: Partial<Answer>): Answer => ({ ...newAnswer({}), ...more });
  const calls = [{ id: "functions.f:0", name: "f", arguments: '{"a' }];
  const silent = answer({ state: "stopped", calls });
  const said = answer({ state: "stopped", content: "I", reasoning: "r", calls });
  expect(bodyOf(noSettings, [silent, said]).messages).toEqual([
    { role: "assistant", content: "I", reasoning_content: "r" },
  ]);
  expect(open(said)).toEqual([]);
  expect(open(answer({ state: "done", calls }))).toEqual(calls);
});

test("tokens a second are those after the first, in the time after it", () => {
  const answer = newAnswer({});
  take(answer, { choices: [{ delta: { content: "a" } }] }, 100);
  take(answer, { choices: [{ delta: { content: "b" } }] }, 600);
  expect(rate(answer)).toBe(2);
  take(answer, { choices: [], usage: { prompt_tokens: 1, completion_tokens: 11 } }, 601);
  expect(rate(answer)).toBe(20);
});

test("a shell reads the body of the curl command as it was", () => {
  const body = { messages: [{ content: 'it\'s $HOME `x` \\ "q"\n!' }] };
  const command = curlOf("http://127.0.0.1:1", body, true).replace("curl -N", 'printf "%s\\n"');
  const { stdout } = spawnSync("sh", ["-c", command], { encoding: "utf8", env: { MASSIF_API_KEY: "k" } });
  const at = stdout.indexOf("{");
  expect(JSON.parse(stdout.slice(at))).toEqual(body);
  expect(stdout.slice(0, at)).toContain("authorization: Bearer k\n");
});

test("events are the same for every cut of the bytes", async () => {
  const bytes = new TextEncoder().encode(
    ': hello\r\n\r\ndata: {"a":"é"}\r\n\r\ndata:b\ndata: c\n\nevent: x\nid: 3\ndata: [DONE]\n\ndata: cut off',
  );
  for (let size = 1; size <= bytes.length; size++) {
    const cut = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.slice(i * size, (i + 1) * size));
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const piece of cut) controller.enqueue(piece);
        controller.close();
      },
    });
    expect(await Array.fromAsync(readEvents(stream))).toEqual([
      { lines: ['{"a":"é"}'] },
      { lines: ["b", "c"] },
      { event: "x", id: "3", lines: ["[DONE]"] },
    ]);
  }
});
