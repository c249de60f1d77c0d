import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Page, page, Shelf } from "../shelf.ts";
import { scripted } from "../testing.ts";

const ask = { model: "m", messages: [{ role: "user", content: "hi" }] };

test("whatever is sent to these routes, the answer is 2xx or 4xx, in JSON, and the server lives", async () => {
  const state = mkdtempSync(join(tmpdir(), "massif-state-"));
  await using server = await scripted(() => ({ text: "ok" }), { state, weightsRoot: state });
  const paths = [
    ...["/v1/batches", "/v1/embeddings", "/v1/caching", "/v1/caching/refs/tags", "/v1/responses/compact"],
    ...["/v1/formulas/moonshot/convert:latest/fibers", "/v1/chat/completions", "/v1/chat/completions/x"],
    ...[
      "/v1/batches/x/cancel",
      "/update_weights",
      "/sleep",
      "/pause",
      "/abort_request",
      "/weight_checker",
      "/v1/files",
    ],
  ];
  const junk = fc.oneof(
    fc.json(),
    fc.string(),
    fc
      .dictionary(
        fc.constantFrom("messages", "tools", "input", "ttl", "metadata", "name", "arguments", "store", "thinking"),
        fc.jsonValue(),
      )
      .map((fields) => JSON.stringify({ ...ask, ...fields })),
    fc.jsonValue().map((content) => JSON.stringify({ ...ask, messages: [{ role: "cache", content }] })),
    fc.jsonValue().map((fn) => JSON.stringify({ ...ask, tools: [{ type: "builtin_function", function: fn }] })),
    fc
      .jsonValue()
      .map((item) => JSON.stringify({ model: "m", input: [{ type: "compaction", encrypted_content: item }] })),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...paths), junk, async (path, body) => {
      const response = await server.post(path, body);
      expect(response.status < 500, `${path} ${body}: ${response.status}`).toBe(true);
      await response.json();
    }),
    { numRuns: 400 },
  );
  const queries = fc.dictionary(fc.constantFrom("limit", "after", "order", "metadata[a]", "purpose", "x"), fc.string());
  const lists = [
    "/v1/files",
    "/v1/batches",
    "/v1/chat/completions",
    "/v1/caching",
    "/v1/files/%2e%2e",
    "/v1/caching/x",
  ];
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...lists), queries, async (path, query) => {
      const response = await fetch(`${server.url}${path}?${new URLSearchParams(query)}`);
      expect(response.status < 500, `${path} ${JSON.stringify(query)}: ${response.status}`).toBe(true);
      await response.json();
    }),
    { numRuns: 200 },
  );
  expect((await fetch(`${server.url}/health`)).status).toBe(200);
  rmSync(state, { recursive: true });
});

test("a shelf is the same after a restart, in the same order, whatever was done to it", () => {
  const folder = mkdtempSync(join(tmpdir(), "massif-shelf-"));
  const steps = fc.array(
    fc.record({
      what: fc.constantFrom("add", "put", "delete"),
      who: fc.constantFrom("a", "b"),
      id: fc.nat(9),
      n: fc.nat(),
    }),
    { maxLength: 40 },
  );
  let run = 0;
  fc.assert(
    fc.property(steps, (all) => {
      const at = join(folder, String(run++));
      const open = () => new Shelf<{ id: string; n: number }>({ kind: "thing", folder: at, most: 5, full: "forget" });
      const shelf = open();
      for (const { what, who, id, n } of all) {
        const record = { id: `${who}${id}`, n };
        if (what === "delete") shelf.delete(record.id);
        else if (what === "put" && shelf.has(record.id)) shelf.put(who, record);
        else if (!shelf.has(record.id)) shelf.add(who, record);
        expect(shelf.list(who).length).toBeLessThanOrEqual(5);
      }
      const again = open();
      for (const who of ["a", "b"]) expect(again.list(who)).toEqual(shelf.list(who));
    }),
    { numRuns: 40 },
  );
  rmSync(folder, { recursive: true });
});

test("pages one after the other are the whole list, in either order", () => {
  fc.assert(
    fc.property(fc.nat(30), fc.integer({ min: 1, max: 8 }), fc.constantFrom("asc", "desc"), (size, limit, order) => {
      const records = Array.from({ length: size }, (_, i) => ({ id: `r${i}` }));
      const seen: { id: string }[] = [];
      let after: string | null = null;
      for (;;) {
        const query: Record<string, string> = { limit: String(limit), order, ...(after !== null && { after }) };
        const part: Page<{ id: string }> = page(records, query, { order: "asc" });
        seen.push(...part.data);
        if (!part.has_more) break;
        after = part.last_id;
      }
      expect(seen).toEqual(order === "asc" ? records : records.toReversed());
    }),
  );
});
