import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type Page, page, Shelf } from "./shelf.ts";

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
