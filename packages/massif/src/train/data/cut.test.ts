import fc from "fast-check";
import { expect, test } from "vitest";
import { cutText } from "./cut.ts";

test.each([
  ["paragraph", "One two.\n\nThree\nfour. Five", 16, ["One two.\n\n", "Three\nfour. Five"]],
  ["line", "One two three\nfour. five", 20, ["One two three\n", "four. five"]],
  ["sentence", "One two three. Four five", 20, ["One two three. ", "Four five"]],
  ["word", "One two three four", 12, ["One two ", "three four"]],
  ["anywhere", "abcdefgh", 3, ["abc", "def", "gh"]],
  ["not inside a character", "ab😀cd", 3, ["ab", "😀c", "d"]],
  ["not at all", "short", 5, ["short"]],
])("cuts after a %s", (_, text, max, pieces) => expect([...cutText(text, max)]).toEqual(pieces));

test("the pieces joined are the text, and none is too long", () => {
  const parts = fc.array(fc.constantFrom("a", "bc", " ", ".", "\n", "\n\n", "😀"), { maxLength: 80 });
  fc.assert(
    fc.property(parts, fc.integer({ min: 2, max: 20 }), (all, max) => {
      const text = all.join("");
      const pieces = [...cutText(text, max)];
      expect(pieces.join("")).toBe(text);
      expect(Math.max(...pieces.map((piece) => piece.length))).toBeLessThanOrEqual(max);
      expect(pieces.every((piece) => piece.isWellFormed())).toBe(true);
      if (text) expect(pieces).not.toContain("");
    }),
  );
});
