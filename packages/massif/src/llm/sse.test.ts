import fc from "fast-check";
import { expect, test } from "vitest";
import { SseDecoder, type SseEvent } from "./sse.ts";

const utf8 = new TextEncoder();

function decode(bytes: Uint8Array, cuts: readonly number[] = []): SseEvent[] {
  const decoder = new SseDecoder();
  const at = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  const events = at.slice(1).flatMap((end, i) => decoder.push(bytes.subarray(at[i], end)));
  return [...events, ...decoder.end()];
}

test.each([
  ["data: a\n\n", [{ event: "", data: "a" }]],
  ["data:a\r\n\r\ndata: b\r\rdata:  c\n\n", ["a", "b", " c"].map((data) => ({ event: "", data }))],
  ["\ufeff: hello\n\n:\n\ndata: a\ndata\ndata: b\n\n", [{ event: "", data: "a\n\nb" }]],
  [
    "event: x\ndata: 1\n\ndata: 2\n\n",
    [
      { event: "x", data: "1" },
      { event: "", data: "2" },
    ],
  ],
  ["event: lonely\n\nid: 7\nretry: 10\nother: x\ndata: z\n\n", [{ event: "", data: "z" }]],
  ["data: no blank line at the end", [{ event: "", data: "no blank line at the end" }]],
  ["data: one line end\r", [{ event: "", data: "one line end" }]],
  ["\n\n\r\n", []],
])("%j", (text, events) => {
  expect(decode(utf8.encode(text))).toEqual(events);
});

test("the same events for every way of cutting the bytes", () => {
  const line = fc.oneof(
    fc.constantFrom(": ping", "data", "data:", "event: x", "id: 1", "", "data: [DONE]", 'data: {"a":"é🙂漢"}'),
    fc.string({ unit: "grapheme" }).map((text) => `data: ${text.replace(/[\r\n]/g, "")}`),
  );
  const ending = fc.constantFrom("\n", "\r\n", "\r", "\n\n", "\r\n\r\n");
  const stream = fc.array(fc.tuple(line, ending).map((parts) => parts.join(""))).map((parts) => parts.join(""));
  fc.assert(
    fc.property(stream, fc.array(fc.nat(4000)), (text, cuts) => {
      const bytes = utf8.encode(text);
      expect(decode(bytes, cuts)).toEqual(decode(bytes));
      expect(
        decode(
          bytes,
          Array.from(bytes, (_, i) => i),
        ),
      ).toEqual(decode(bytes));
    }),
  );
});

test("an event that never ends is refused before it fills the memory", () => {
  const decoder = new SseDecoder();
  const piece = utf8.encode(`data: ${"x".repeat(1 << 22)}\n`);
  expect(() => {
    for (let i = 0; i < 20; i++) decoder.push(piece);
  }).toThrow("an event of more than");
});
