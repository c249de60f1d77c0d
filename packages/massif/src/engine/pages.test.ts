import fc from "fast-check";
import { expect, test } from "vitest";
import { BlockPool } from "./blocks.ts";
import { Pages, type Sequence, sequence } from "./pages.ts";

test("a pool gives away empty blocks first, then the least recently released", () => {
  const pool = new BlockPool(4);
  const [a, b, c] = [pool.take()!, pool.take()!, pool.take()!];
  pool.seal(a, "a");
  pool.seal(b, "b");
  pool.release(b);
  pool.release(a);
  pool.release(c);
  expect(pool.free).toBe(4);
  expect(new Set([pool.take(), pool.take()])).toEqual(new Set([c, 3]));
  expect(pool.find("b")).toBe(b);
  expect(pool.take()).toBe(a);
  expect(pool.find("a")).toBeUndefined();
  expect(pool.take()).toBeUndefined();
});

test("what is released twice or sealed while free is an error", () => {
  const pool = new BlockPool(1);
  const block = pool.take()!;
  pool.release(block);
  expect(() => pool.release(block)).toThrow("released while free");
  expect(() => pool.seal(block, "x")).toThrow("sealed while free");
});

test("a prefix is found by whole blocks, never the last token, and only under its salt", () => {
  const pages = new Pages(16, 4);
  const first = sequence([1, 2, 3, 4, 5, 6, 7, 8]);
  pages.reserve(first, 8);
  pages.commit(first, 8);
  expect(pages.match(sequence([1, 2, 3, 4, 5, 6, 7, 8]))).toBe(4);
  expect(pages.match(sequence([1, 2, 3, 4, 5, 6, 7, 8, 9]))).toBe(8);
  expect(pages.match(sequence([1, 2, 3, 4, 5, 6, 7, 9, 9]))).toBe(4);
  expect(pages.match(sequence([2, 2, 3, 4, 5, 6, 7, 8, 9]))).toBe(0);
  expect(pages.match(sequence([1, 2, 3, 4, 5, 6, 7, 8, 9], "other"))).toBe(0);
});

test("a fork copies only the block that it writes into, and only while others hold it", () => {
  const pages = new Pages(16, 4);
  const seq = sequence([1, 2, 3, 4, 5, 6]);
  pages.reserve(seq, 6);
  pages.commit(seq, 6);
  const fork = pages.fork(seq);
  expect(pages.pool.free).toBe(14);
  const [shared, last] = seq.blocks as [number, number];
  expect(pages.reserve(fork, 7)).toEqual([{ from: last, to: fork.blocks[1] }]);
  expect(fork.blocks[0]).toBe(shared);
  expect(pages.reserve(seq, 7)).toEqual([]);
  pages.release(fork);
  pages.release(seq);
  expect(pages.pool.free).toBe(16);
});

/** What the tensors would hold: for each block, the token history that every one of its positions was computed from. */
class Shadow {
  readonly cells = new Map<number, string[]>();
  readonly pages: Pages;
  version = 0;

  constructor(pages: Pages) {
    this.pages = pages;
  }

  copy(from: number, to: number): void {
    this.cells.set(to, [...(this.cells.get(from) ?? [])]);
  }

  history(seq: Sequence, position: number): string {
    return `${this.version}|${seq.salt}|${seq.tokens.slice(0, position + 1)}`;
  }

  write(seq: Sequence, to: number): void {
    const n = this.pages.blockSize;
    for (let p = seq.computed; p < to; p++) {
      const block = seq.blocks[Math.floor(p / n)]!;
      const cells = this.cells.get(block) ?? [];
      cells[p % n] = this.history(seq, p);
      this.cells.set(block, cells);
    }
  }

  /** What a sequence would read is what it would have computed. */
  check(seq: Sequence): void {
    const n = this.pages.blockSize;
    for (let p = 0; p < seq.computed; p++)
      expect(this.cells.get(seq.blocks[Math.floor(p / n)]!)![p % n]).toBe(this.history(seq, p));
  }
}

test("fuzz: no leak, no double free, no stale hit, no write into what others read", () => {
  const move = fc.record({
    kind: fc.constantFrom("begin", "grow", "grow", "grow", "fork", "end", "update"),
    which: fc.nat(9),
    size: fc.integer({ min: 1, max: 9 }),
    tokens: fc.array(fc.integer({ min: 0, max: 1 }), { minLength: 1, maxLength: 14 }),
    salt: fc.constantFrom("", "s"),
  });
  fc.assert(
    fc.property(fc.array(move, { maxLength: 80 }), (moves) => {
      const pages = new Pages(12, 3);
      const shadow = new Shadow(pages);
      let live: Sequence[] = [];
      for (const { kind, which, size, tokens, salt } of moves) {
        const seq = live[which % Math.max(1, live.length)];
        if (kind === "begin") {
          const fresh = sequence(tokens, salt);
          pages.match(fresh);
          live.push(fresh);
        } else if (kind === "update" && !live.length) {
          shadow.version++;
          pages.forgetAll();
        } else if (!seq) continue;
        else if (kind === "grow") {
          if (seq.computed === seq.tokens.length) seq.tokens.push(size % 2);
          const to = Math.min(seq.tokens.length, seq.computed + size);
          const before = JSON.stringify(seq);
          const copies = pages.reserve(seq, to);
          if (!copies) expect(JSON.stringify(seq)).toBe(before);
          else {
            for (const { from, to } of copies) shadow.copy(from, to);
            for (const block of seq.blocks.slice(Math.floor(seq.computed / 3)))
              expect(pages.pool.holders(block)).toBe(1);
            shadow.write(seq, to);
            pages.commit(seq, to);
          }
        } else if (kind === "fork") live.push(pages.fork(seq));
        else if (kind === "end") {
          pages.release(seq);
          live = live.filter((other) => other !== seq);
        }
        for (const other of live) shadow.check(other);
        expect(pages.pool.free).toBe(12 - new Set(live.flatMap(({ blocks }) => blocks)).size);
      }
      for (const seq of live) pages.release(seq);
      expect(pages.pool.free).toBe(12);
      const all = Array.from({ length: 12 }, () => pages.pool.take());
      expect(new Set(all).size).toBe(12);
      expect(pages.pool.take()).toBeUndefined();
      expect(pages.pool.cached).toBe(0);
    }),
    { numRuns: 400, seed: 7 },
  );
});
