import fc from "fast-check";
import { expect, test } from "vitest";
import { type Message, readMessages, readNativeId, rewriteIds } from "./index.ts";

const call = (id: string | undefined, name = "f") => ({ id, type: "function", function: { name, arguments: "{}" } });
const turn = (...calls: ReturnType<typeof call>[]) => ({ role: "assistant", content: "", tool_calls: calls });
const result = (tool_call_id?: string, name?: string) => ({ role: "tool", content: "", tool_call_id, name });
const idsOf = (messages: Message[]) =>
  messages.flatMap((m) =>
    m.role === "tool" ? [`>${m.tool_call_id}`] : ((m.role === "assistant" && m.tool_calls) || []).map((c) => c.id),
  );
const rewritten = (...messages: object[]) => idsOf(rewriteIds(readMessages(messages)));

test("a native id: the first functions. and the last :N are taken off, whatever the name", () => {
  expect(readNativeId("functions.get_weather:12")).toEqual({ name: "get_weather", index: 12 });
  expect(readNativeId("functions.mcp.a-b:c.functions.x:0")).toEqual({ name: "mcp.a-b:c.functions.x", index: 0 });
  for (const id of ["functions.:0", "f:0", "functions.f", "functions.f:x", "0", "call_1"])
    expect(readNativeId(id)).toBeUndefined();
});

test("ids of other systems become K2's with one running index, results with them", () => {
  expect(
    rewritten(
      turn(call("call_a"), call("toolu_b", "g")),
      result("toolu_b"),
      result("call_a"),
      turn(call(undefined)),
      result(),
    ),
  ).toEqual(["functions.f:0", "functions.g:1", ">functions.g:1", ">functions.f:0", "functions.f:2", ">functions.f:2"]);
});

test("K2's own ids stay, whatever they count; a foreign one never takes theirs", () => {
  expect(
    rewritten(turn(call("functions.f:1")), result("functions.f:1"), turn(call("call_x")), result("call_x")),
  ).toEqual(["functions.f:1", ">functions.f:1", "functions.f:2", ">functions.f:2"]);
});

test("a native id of another function, and one used before, are rewritten", () => {
  expect(rewritten(turn(call("functions.g:0")), result("functions.g:0"))).toEqual(["functions.f:0", ">functions.f:0"]);
  expect(
    rewritten(
      turn(call("functions.f:0")),
      result("functions.f:0"),
      turn(call("functions.f:0")),
      result("functions.f:0"),
    ),
  ).toEqual(["functions.f:0", ">functions.f:0", "functions.f:1", ">functions.f:1"]);
});

test("a turn that uses one id twice: results in order; a second result to one call keeps its id", () => {
  expect(rewritten(turn(call("x"), call("x")), result("x"), result("x"), result("x"))).toEqual([
    ...["functions.f:0", "functions.f:1"],
    ...[">functions.f:0", ">functions.f:1", ">functions.f:1"],
  ]);
});

test("a result without its call", () => {
  expect(rewritten(result("functions.old:7"), result("call_z", "g"), result(undefined))).toEqual([
    ...[">functions.old:7", ">functions.g:0", ">functions.unknown:0"],
  ]);
});

test("ids are unique, every answer finds its call, a prefix is rewritten the same, and twice is once", () => {
  const id = fc.constantFrom(undefined, "a", "b", "functions.f:0", "functions.f:1", "functions.g:0", "functions.g:3");
  const calls = fc.array(fc.record({ id, name: fc.constantFrom("f", "g") }), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(fc.array(calls, { maxLength: 5 }), (turns) => {
      const messages = readMessages(
        turns.flatMap((made) => [turn(...made.map((c) => call(c.id, c.name))), ...made.map((c) => result(c.id))]),
      );
      const all = rewriteIds(messages);
      const made = all.flatMap((m) => (m.role === "assistant" ? m.tool_calls!.map((c) => c.id) : []));
      const answered = all.flatMap((m) => (m.role === "tool" ? [m.tool_call_id] : []));
      expect(new Set(made).size).toBe(made.length);
      for (const m of all)
        if (m.role === "assistant")
          for (const c of m.tool_calls!) expect(readNativeId(c.id!)?.name).toBe(c.function.name);
      expect(answered.toSorted()).toEqual(made.toSorted());
      expect(rewriteIds(all)).toEqual(all);
      for (let n = 0; n < messages.length; n++) expect(rewriteIds(messages.slice(0, n))).toEqual(all.slice(0, n));
    }),
  );
});
