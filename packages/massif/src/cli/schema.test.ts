import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { expect, test } from "vitest";

function massif(args: string[], ...rows: unknown[]) {
  const input = rows.map((row) => JSON.stringify(row)).join("\n");
  const main = resolve(import.meta.dirname, "main.ts");
  const { stdout, stderr, status } = spawnSync(process.execPath, [main, "schema", ...args], {
    input,
    encoding: "utf8",
  });
  return {
    rows: stdout
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line)),
    stderr,
    status,
  };
}

const nest = (n: number): object => (n ? { type: "object", properties: { a: nest(n - 1) } } : { type: "string" });

test("rows of text and of objects; refusals are answers", () => {
  const { rows, status } = massif(
    ["check"],
    { schema: '{"type":"string"}' },
    { schema: {} },
    { schema: "{" },
    { schema: { type: "text" } },
  );
  expect(rows).toEqual([
    { accepted: true, reason: "" },
    { accepted: true, reason: "" },
    { accepted: false, reason: expect.stringMatching(/^JSON schema parsing error: .*\(at #\)$/s) },
    { accepted: false, reason: "invalid type (at #)" },
  ]);
  expect(status).toBe(0);
});

test("depth is that of walle's suite unless told", () => {
  const deep = { schema: nest(6) };
  expect(massif(["check"], deep).rows[0].reason).toBe(
    "schema depth exceeds maximum limit of 5 (at #/properties/a/properties/a/properties/a/properties/a/properties/a/properties/a)",
  );
  expect(massif(["check", "--max-depth", "30"], deep).rows).toEqual([{ accepted: true, reason: "" }]);
});

test("wrong calls: exit 2; a row without a schema: exit 1", () => {
  expect(massif(["chek"]).status).toBe(2);
  expect(massif(["check", "--max-depth", "0"]).status).toBe(2);
  const { status, stderr } = massif(["check"], { schem: 1 });
  expect([status, stderr]).toEqual([1, expect.stringMatching(/:1: .*schema/)]);
});
