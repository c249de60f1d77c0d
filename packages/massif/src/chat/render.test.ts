import fc from "fast-check";
import { expect, test } from "vitest";
import {
  controls,
  encodeSegments,
  type Message,
  type RenderRequest,
  readMessages,
  readTemplateName,
  readTools,
  render,
  renderedText,
  type TemplateName,
  templateNames,
  toolStyles,
} from "./index.ts";
import { byteTokenizer, hasShared, kimiTokenizer, vectors } from "./testing.ts";

const tokenizer = byteTokenizer();
const text = (request: RenderRequest) => renderedText(render(request));
const encode = (request: RenderRequest, tok = tokenizer) => encodeSegments(render(request), tok);
const kimi = "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>";

const weather = readTools([
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "查询天气",
      parameters: { type: "object", required: ["city"], properties: { city: { type: "string" } } },
    },
  },
]);
const chain = readMessages([
  { role: "user", content: "天气?" },
  {
    role: "assistant",
    content: "",
    reasoning_content: "need tool",
    tool_calls: [
      {
        id: "functions.get_weather:0",
        type: "function",
        function: { name: "get_weather", arguments: '{"city":"北京"}' },
      },
    ],
  },
  { role: "tool", name: "get_weather", tool_call_id: "functions.get_weather:0", content: '{"w":"sunny"}' },
]);
const answered: Message[] = [
  ...chain,
  ...readMessages([
    { role: "assistant", content: "晴", reasoning_content: "done" },
    { role: "user", content: "thanks" },
  ]),
];

test.skipIf(!hasShared)("the 300 vectors, tools as given and sorted compact", async () => {
  let sorted = 0;
  const rows = await vectors();
  for (const row of rows) {
    const request: RenderRequest = {
      template: readTemplateName(row.template),
      messages: readMessages(row.messages),
      tools: readTools(row.tools),
      addGenerationPrompt: row.add_generation_prompt,
    };
    expect(text({ ...request, toolStyle: "json" })).toBe(row.rendered);
    if (row.rendered_sorted_compact_tools === undefined) continue;
    expect(text(request)).toBe(row.rendered_sorted_compact_tools);
    sorted++;
  }
  expect([rows.length, sorted]).toEqual([300, 120]);
});

test.skipIf(!hasShared)("ids of the specification's vectors A, B and C (kimi-k2.md §7.8)", async () => {
  const tok = await kimiTokenizer();
  const ids = (messages: Message[], tools = weather) =>
    encode({ template: "thinking", messages, tools, addGenerationPrompt: true }, tok).ids;
  const system = [
    163594, 14062, 163601, 3900, 554, 24980, 72, 11, 519, 22572, 26626, 5232, 673, 30218, 10065, 22572, 13, 163586,
  ];
  const generate = [163588, 69702, 163601];
  const call = [
    163595, 163597, 41937, 1150, 21055, 2800, 25, 15, 163598, 8264, 37666, 7471, 3372, 16934, 163599, 163596, 163586,
  ];
  const result = [
    ...[163594, 618, 21055, 2800, 163601, 798, 6014, 318, 8271, 1150, 21055, 2800, 25, 15, 198, 8264, 86, 7471, 82],
    ...[38975, 16934, 163586],
  ];
  const asked = [163587, 2482, 163601, 8597, 30, 163586];
  expect(ids([{ role: "user", content: "Hi" }], [])).toEqual([
    ...system,
    163587,
    2482,
    163601,
    18699,
    163586,
    ...generate,
  ]);
  expect(ids(chain)).toEqual([
    ...[163594, 20960, 35556, 677, 163601, 81103, 3879, 22849, 11031, 7471, 13021, 8597, 3923, 1152, 7471, 618, 21055],
    ...[
      2800, 3923, 24453, 22849, 27129, 22849, 37666, 22849, 2217, 7471, 2033, 60336, 2020, 20331, 46890, 37666, 131917,
    ],
    ...[2217, 7471, 3721, 60336, 2020, 2217, 7471, 3879, 16934, 60, 163586],
    ...system,
    ...asked,
    ...[...generate, 163606, 23995, 4453, 163607, ...call],
    ...result,
    ...generate,
  ]);
  expect(ids(answered, [])).toEqual([
    ...system,
    ...asked,
    ...[...generate, 163606, 163607, ...call],
    ...result,
    ...[...generate, 163606, 163607, 14003, 163586],
    ...[163587, 2482, 163601, 73389, 163586],
    ...generate,
  ]);
});

test("thinking: reasoning is kept in the current chain of calls, and dropped before the last answer", () => {
  const turn = (reasoning: string) =>
    `<|im_user|>user<|im_middle|>天气?<|im_end|><|im_assistant|>assistant<|im_middle|><think>${reasoning}</think><|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city":"北京"}<|tool_call_end|><|tool_calls_section_end|><|im_end|><|im_system|>get_weather<|im_middle|>## Return of functions.get_weather:0\n{"w":"sunny"}<|im_end|>`;
  expect(text({ template: "thinking", messages: chain, addGenerationPrompt: true })).toBe(
    `${kimi}${turn("need tool")}<|im_assistant|>assistant<|im_middle|>`,
  );
  const answer = (reasoning: string) =>
    `<|im_assistant|>assistant<|im_middle|><think>${reasoning}</think>晴<|im_end|><|im_user|>user<|im_middle|>thanks<|im_end|>`;
  expect(text({ template: "thinking", messages: answered })).toBe(`${kimi}${turn("")}${answer("")}`);
  expect(text({ template: "thinking", messages: answered, keepReasoning: true })).toBe(
    `${kimi}${turn("need tool")}${answer("done")}`,
  );
});

test("the generations of the Instruct template", () => {
  const tools = readTools([{ type: "function", function: { name: "f" } }]);
  const messages = readMessages([
    { role: "user", content: "hi", name: "anna" },
    {
      role: "assistant",
      tool_calls: [{ id: "call_1", function: { name: "f", arguments: { a: 1 } } }],
      reasoning: "hm",
    },
    { role: "tool", tool_call_id: "call_1", content: "4" },
  ]);
  const shown = (template: TemplateName) => text({ template, messages, tools, addGenerationPrompt: true });
  const calls = (args: string) =>
    `<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>${args}<|tool_call_end|><|tool_calls_section_end|>`;
  const generate = "<|im_assistant|>assistant<|im_middle|>";
  expect(shown("instruct-v0")).toBe(
    `<|im_system|>tool_declare<|im_middle|>[{"type": "function", "function": {"name": "f"}}]<|im_end|><|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|><|im_user|>user<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|><|im_end|><|im_system|>tool<|im_middle|>4<|im_end|>${generate}`,
  );
  expect(shown("instruct-v1")).toBe(
    `<|im_system|>tool_declare<|im_middle|>\n  # Tools\n  [{"type": "function", "function": {"name": "f"}}]<|im_end|>${kimi}<|im_user|>anna<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|>${calls('{"a": 1}')}<|im_end|><|im_system|>tool<|im_middle|>## Return of functions.f:0\n    4<|im_end|>${generate}`,
  );
  expect(shown("instruct-v2")).toBe(
    `<|im_system|>tool_declare<|im_middle|>[{"type":"function","function":{"name":"f"}}]<|im_end|>${kimi}\n<|im_user|>anna<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|>${calls('{"a":1}')}<|im_end|><|im_system|>tool<|im_middle|>## Return of functions.f:0\n4<|im_end|>${generate}`,
  );
  expect(readTemplateName("instruct")).toBe("instruct-v2");
  expect(() => readTemplateName("thinkin")).toThrow(/template "thinkin"[\s\S]*did you mean thinking\?/);
});

test("empty content with calls is the same prompt however it is written", () => {
  const call = { id: "functions.f:0", type: "function", function: { name: "f", arguments: "{}" } };
  const prompts = [null, "", [], undefined].map((content) =>
    text({ template: "instruct-v2", messages: readMessages([{ role: "assistant", content, tool_calls: [call] }]) }),
  );
  expect(new Set(prompts).size).toBe(1);
});

test("partial mode goes on from the last assistant message, and from the middle of its reasoning", () => {
  const partial = (fields: object) =>
    text({
      template: "thinking",
      messages: readMessages([
        { role: "system", content: "" },
        { role: "assistant", partial: true, ...fields },
      ]),
      addGenerationPrompt: true,
    }).replace("<|im_system|>system<|im_middle|><|im_end|><|im_assistant|>", "");
  expect(partial({ content: "Once" })).toBe("assistant<|im_middle|><think></think>Once");
  expect(partial({ content: "Once", reasoning_content: "r", name: "Bard" })).toBe(
    "Bard<|im_middle|><think>r</think>Once",
  );
  expect(partial({ reasoning_content: "r" })).toBe("assistant<|im_middle|><think>r");
  expect(partial({})).toBe("assistant<|im_middle|>");
  const early = readMessages([
    { role: "assistant", content: "", partial: true },
    { role: "user", content: "" },
  ]);
  expect(() => render({ template: "thinking", messages: early })).toThrow(/messages\[0\] is partial/);
});

test("each token's source: what the model writes is `assistant`, up to and with its end", () => {
  const { ids, sources, messages } = encode({
    template: "thinking",
    messages: answered,
    tools: weather,
    addGenerationPrompt: true,
  });
  const runs: string[] = [];
  for (let i = 0; i < ids.length; ) {
    let end = i;
    while (end < ids.length && sources[end] === sources[i] && messages[end] === messages[i]) end++;
    const written = Buffer.concat(ids.slice(i, end).map((id) => tokenizer.tokenBytes(id))).toString();
    runs.push(
      `${messages[i]} ${sources[i]} ${written.replace(/^\[\{.*\}\]$/, "TOOLS").replace(/You are.*AI\./, "KIMI")}`,
    );
    i = end;
  }
  expect(runs).toEqual([
    "-1 template <|im_system|>tool_declare<|im_middle|>",
    "-1 system TOOLS",
    "-1 template <|im_end|><|im_system|>system<|im_middle|>",
    "-1 system KIMI",
    "-1 template <|im_end|>",
    "0 template <|im_user|>user<|im_middle|>",
    "0 user 天气?",
    "0 template <|im_end|>",
    "1 template <|im_assistant|>assistant<|im_middle|><think></think>",
    '1 assistant <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city":"北京"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>',
    "2 template <|im_system|>get_weather<|im_middle|>",
    '2 tool ## Return of functions.get_weather:0\n{"w":"sunny"}',
    "2 template <|im_end|>",
    "3 template <|im_assistant|>assistant<|im_middle|><think></think>",
    "3 assistant 晴<|im_end|>",
    "4 template <|im_user|>user<|im_middle|>",
    "4 user thanks",
    "4 template <|im_end|>",
    "5 template <|im_assistant|>assistant<|im_middle|>",
  ]);
  const current = encode({ template: "thinking", messages: chain });
  const written = current.ids.filter((_, i) => current.messages[i] === 1 && current.sources[i] === "assistant");
  expect(tokenizer.decode(written)).toMatch(/^<think>need tool<\/think><\|tool_calls_section_begin\|>.*<\|im_end\|>$/);
});

/** Text that does all it can to look like the format. */
const hostile = fc
  .array(
    fc.oneof(
      fc.constantFrom(...Object.values(controls), "[EOS]", "<|", "|>", "\n## Return of x"),
      fc.string({ maxLength: 5 }),
    ),
  )
  .map((parts) => parts.join(""));
const conversation = fc.array(
  fc.oneof(
    fc.record({ role: fc.constantFrom("system", "user"), content: hostile, name: hostile }),
    fc.record({ role: fc.constant("tool"), content: hostile, name: hostile, tool_call_id: hostile }),
    fc.record({
      role: fc.constant("assistant"),
      content: hostile,
      reasoning_content: hostile,
      tool_calls: fc.array(
        fc.record({ id: hostile, function: fc.record({ name: hostile.map((s) => `f${s}`), arguments: hostile }) }),
        { maxLength: 2 },
      ),
    }),
  ),
  { maxLength: 5 },
);

test("nothing that anyone says becomes a control token: the format has the same ones whatever the texts are", () => {
  const special = new Set(tokenizer.special.values());
  fc.assert(
    fc.property(
      conversation,
      hostile,
      fc.constantFrom(...templateNames),
      fc.constantFrom(...toolStyles),
      (said, word, template, toolStyle) => {
        const tools = readTools([
          { type: "function", function: { name: `g${word}`, description: word, parameters: { [word]: word } } },
        ]);
        const controlsOf = (messages: Message[]) =>
          encode({ template, toolStyle: toolStyle === "typescript" ? "json" : toolStyle, messages, tools }).ids.filter(
            (id) => special.has(id),
          );
        const mild = said.map((m) => ({
          ...m,
          content: "x",
          name: "x",
          ...("tool_calls" in m && {
            tool_calls: m.tool_calls.map(() => ({ function: { name: "x", arguments: "x" } })),
          }),
        }));
        expect(controlsOf(readMessages(said))).toEqual(controlsOf(readMessages(mild)));
      },
    ),
  );
});

test("an agent appends: the segments from a message on encode to what the whole has from there on", () => {
  fc.assert(
    fc.property(conversation, fc.constantFrom(...templateNames), (said, template) => {
      const segments = render({
        template,
        messages: readMessages(said),
        addGenerationPrompt: true,
        keepReasoning: true,
      });
      const whole = encodeSegments(segments, tokenizer).ids;
      for (let n = 0; n <= said.length; n++) {
        const before = render({ template, messages: readMessages(said.slice(0, n)), keepReasoning: true });
        const after = segments.filter(({ message }) => message >= n);
        // With no message at all there is nothing to say yet whether the default system turn is needed.
        if (n > 0)
          expect([...encodeSegments(before, tokenizer).ids, ...encodeSegments(after, tokenizer).ids]).toEqual(whole);
      }
    }),
  );
});

test("a tokenizer without a control token is an error that names it; think tags may be plain text", () => {
  const messages = readMessages([{ role: "assistant", content: "b", reasoning_content: "a" }]);
  expect(() => encode({ template: "thinking", messages }, byteTokenizer(["<|im_middle|>"]))).toThrow(
    /no special token <\|im_middle\|>/,
  );
  const plain = byteTokenizer(["<think>", "</think>"]);
  const { ids, sources } = encode({ template: "thinking", messages, keepReasoning: true }, plain);
  expect(plain.decode(ids.filter((_, i) => sources[i] === "assistant"))).toBe("<think>a</think>b<|im_end|>");
});
