import { expect, test } from "vitest";
import { pick, type Tensor, torch } from "./index.ts";

/** [token, log p, sampled log p] of each wish: row, token taken or −1, temperature, uniform, mask (none by default). */
const picked = (logits_NC: Tensor, wishes: number[][], bars: { never?: Tensor; masks?: Tensor } = {}): number[][] =>
  torch.tidy(() => {
    const whole = wishes.flatMap(([row, taken, temperature, uniform, mask = -1]) => [
      ...[row!, taken!, temperature!, uniform!, mask],
    ]);
    return pick(logits_NC, torch.tensor(whole, { shape: [wishes.length, 5], dtype: "float64" }), bars).tolist();
  }) as number[][];

// Odd lengths around vectors and chunks; float32 sums over up to 5,000 logits.
test.for([1, 7, 16, 255, 256, 257, 5000])(
  "tokens, log-probabilities and draws are those of the definition (%i)",
  (C) => {
    using _ = torch.scope();
    const logits = torch.randn([3, C], { dtype: "float32" }).mul(3);
    const rows = logits.tolist() as number[][];
    for (const temperature of [0, 0.3, 1, 2.5])
      for (const uniform of [0, 0.123, 0.5, 0.9999999]) {
        const found = picked(
          logits,
          [0, 2, 1].map((row) => [row, -1, temperature, uniform]),
        );
        for (const [i, row] of [0, 2, 1].entries()) {
          const l = rows[row]!;
          const [id, logprob, sampled] = found[i] as [number, number, number];
          const sum = (of: (x: number) => number, to = C) => l.slice(0, to).reduce((a, x) => a + of(x), 0);
          expect(logprob).toBeCloseTo(l[id]! - Math.log(sum(Math.exp)), 5);
          if (temperature === 0) {
            expect([id, sampled]).toEqual([l.indexOf(Math.max(...l)), 0]);
            continue;
          }
          const most = Math.max(...l);
          const weight = (x: number) => Math.exp((x - most) / temperature);
          const whole = sum(weight);
          expect(sampled).toBeCloseTo(Math.log(weight(l[id]!) / whole), 4);
          // The sum passes uniform · whole at this token, within what float32 rounds.
          expect(sum(weight, id) / whole).toBeLessThan(uniform + 1e-6);
          expect(sum(weight, id + 1) / whole).toBeGreaterThan(uniform - 1e-6);
        }
      }
  },
);

test("what may not come never comes, and what is told is the model's own; the logits stay", () => {
  using _ = torch.scope();
  const logits = torch.tensor([[0, 5, 1, 4]], { dtype: "float32" });
  const never = torch.tensor([1n, 3n].map(Number), { dtype: "int64" });
  const told = logits.log_softmax(-1).toArray();
  for (let u = 0; u < 1; u += 0.05) {
    const [[id, logprob, sampled]] = picked(logits, [[0, -1, 1, u]], { never }) as [[number, number, number]];
    expect([0, 2]).toContain(id);
    expect(logprob).toBeCloseTo(told[id]!, 5);
    expect(sampled).toBeCloseTo((id === 2 ? 1 : 0) - Math.log(1 + Math.E), 5);
  }
  expect(picked(logits, [[0, -1, 0, 0]], { never })[0]![0]).toBe(2);
  // A token that is taken is told of, whatever it is.
  expect(picked(logits, [[0, 3, 0, 0]], { never })[0]![1]).toBeCloseTo(told[3]!, 5);
  expect(logits.toArray()).toEqual([0, 5, 1, 4]);
});

test("no token where logits are no numbers or none may come; other rows go on", () => {
  using _ = torch.scope();
  const logits = torch.tensor(
    [
      [1, NaN, 2],
      [1, 2, 3],
      [-Infinity, -Infinity, -Infinity],
    ].flat(),
    { shape: [3, 3], dtype: "float32" },
  );
  for (const temperature of [0, 1])
    expect(
      picked(
        logits,
        [0, 1, 2].map((row) => [row, -1, temperature, 0.99]),
      ).map(([id]) => id),
    ).toEqual([-1, 2, -1]);
  expect(() => picked(logits, [[3, -1, 0, 0]])).toThrow("found row 3 of 3");
  expect(() => picked(logits, [[0, 3, 0, 0]])).toThrow("token 3 of 3");
});

test.for([31, 32, 70, 5000])("a mask leaves what it allows, beside rows that have none (%i)", (C) => {
  using _ = torch.scope();
  const logits = torch.randn([2, C], { dtype: "float32" });
  const W = Math.ceil(C / 32) - (C > 32 ? 1 : 0); // Tokens beyond a mask may not come.
  const words = Int32Array.from({ length: 2 * W }, (_, i) => [0x0f0f0f0f, -1, 0, 0x70000001][i % 4]!);
  const masks = torch.tensor(words, { shape: [2, W] });
  const allows = (mask: number, id: number) => id >> 5 < W && ((words[mask * W + (id >> 5)]! >>> (id & 31)) & 1) === 1;
  const rows = logits.tolist() as number[][];
  for (const [row, mask] of [
    [0, 0],
    [1, 1],
    [1, 0],
  ] as const) {
    const open = rows[row]!.map((l, id) => (allows(mask, id) ? l : Number.NEGATIVE_INFINITY));
    const best = open.indexOf(Math.max(...open));
    const [greedy, plain, drawn] = picked(
      logits,
      [
        [row, -1, 0, 0, mask],
        [row, -1, 0, 0],
        [row, -1, 1, 0.7, mask],
      ],
      { masks },
    );
    const none = open.every((l) => l === Number.NEGATIVE_INFINITY);
    expect(greedy![0]).toBe(none ? -1 : best);
    expect(plain![0]).toBe(rows[row]!.indexOf(Math.max(...rows[row]!)));
    if (!none) expect(allows(mask, drawn![0]!)).toBe(true);
    if (!none) expect(greedy![1]).toBeCloseTo(logits.select(0, row).log_softmax(-1).toArray()[best] as number, 5);
  }
});
