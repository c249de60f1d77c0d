import { expect, test } from "vitest";
import { mlaAttention, mlaDecode, type Tensor, torch, usePlain } from "./index.ts";
import { agree, each, freshly, randn, TOLERANCE } from "./testing.ts";

freshly();

test.for(
  each([
    { B: 1, T: 1, H: 1, nope: 1, rope: 2, V: 1, docs: false },
    { B: 2, T: 1, H: 3, nope: 4, rope: 2, V: 5, docs: true },
    { B: 2, T: 47, H: 3, nope: 16, rope: 8, V: 12, docs: false },
    { B: 2, T: 49, H: 2, nope: 7, rope: 6, V: 9, docs: true },
    { B: 1, T: 300, H: 2, nope: 16, rope: 8, V: 16, docs: false },
    { B: 2, T: 515, H: 1, nope: 5, rope: 4, V: 3, docs: true },
    { B: 2, T: 60, H: 2, nope: 7, rope: 6, V: 9, docs: true, share: 7 },
    { B: 1, T: 700, H: 2, nope: 16, rope: 8, V: 16, docs: true, share: 300 },
  ] as { B: number; T: number; H: number; nope: number; rope: number; V: number; docs: boolean; share?: number }[]),
)("mlaAttention, %s, %o", ([dtype, { B, T, H, nope, rope, V, docs, share = 0 }]) => {
  const angle_TR = torch.rand([T, rope / 2], { dtype }).mul(6);
  const [cos_TR, sin_TR] = [angle_TR.cos(), angle_TR.sin()];
  // Documents of 1, 2, 3, … positions behind what they share; the second row's are one document.
  const starts = Int32Array.from({ length: B * T }, (_, i) => {
    const n = Math.floor((Math.sqrt(8 * ((i % T) - share) + 1) - 1) / 2);
    return i < T && i >= share ? share + (n * (n + 1)) / 2 : 0;
  });
  const docStart_BT = docs ? torch.tensor(starts, { shape: [B, T] }) : null;
  // The first two positions belong to none of them.
  const stretches = Int32Array.from({ length: 2 * B * T }, (_, i) => (starts[i >> 1] ? (i % 2 ? share : 2) : 0));
  const shared_BT2 = share ? torch.tensor(stretches, { shape: [B, T, 2] }) : null;
  const run = (inputs: Tensor[]) => {
    const [q_BTHK, kv_BTHX, kPe_BTR] = inputs as [Tensor, Tensor, Tensor];
    return mlaAttention({ q_BTHK, kv_BTHX, kPe_BTR, cos_TR, sin_TR, docStart_BT, shared_BT2, nope, scale: 0.7 });
  };
  const inputs = [randn([B, T, H, nope + rope], dtype), randn([B, T, H, nope + V], dtype), randn([B, T, rope], dtype)];
  agree(dtype, inputs, (leaves) => run(leaves)[0]);
  const fused = run(inputs)[1].toArray();
  usePlain(true);
  const plain = run(inputs)[1].toArray();
  // Maxima are float32: each within a few of its last bits.
  for (const [h, max] of plain.entries())
    expect(Math.abs(fused[h]! - max)).toBeLessThan(2e-6 * Math.max(1, Math.abs(max)));
});

test("mlaAttention shows a NaN in the maximum, in either form", () => {
  const q_BTHK = torch.zeros([1, 4, 2, 4]);
  q_BTHK.select(2, 1).fill_(Number.NaN);
  const rest = {
    kv_BTHX: torch.ones([1, 4, 2, 4]),
    kPe_BTR: torch.ones([1, 4, 2]),
    docStart_BT: null,
    nope: 2,
    scale: 1,
  };
  for (const plain of [false, true]) {
    usePlain(plain);
    const [, max_H] = mlaAttention({ q_BTHK, ...rest, cos_TR: torch.ones([4, 1]), sin_TR: torch.zeros([4, 1]) });
    expect(max_H.toArray()).toEqual([0, Number.NaN]);
  }
});

test.for(
  each([
    { B: 1, T: 1, H: 1, nope: 2, R: 2, C: 3, V: 1, block: 4, lengths: [0] },
    { B: 3, T: 1, H: 5, nope: 8, R: 4, C: 16, V: 7, block: 4, lengths: [0, 9, 30] },
    { B: 2, T: 5, H: 13, nope: 17, R: 6, C: 33, V: 20, block: 64, lengths: [3, 40] },
  ]),
)("mla_decode %o: values and the cache it writes are its twin's, rows as if they were alone", ([dtype, n]) => {
  const { B, T, H, nope, R, C, V, block, lengths } = n;
  const M = Math.ceil((Math.max(...lengths) + T) / block);
  const pages = torch.randperm(2 * B * M).to("int32");
  const table_BM = pages.narrow(0, 0, B * M).view([B, M]);
  const position_BT = torch
    .tensor(Int32Array.from(lengths))
    .unsqueeze(1)
    .add(torch.arange(T, { dtype: "int32" }));
  const angles_NR = randn([B * T, R / 2], dtype);
  const inputs = {
    q_BTHK: randn([B, T, H, nope + R], dtype),
    latent_BTC: randn([B, T, C], dtype),
    kPe_BTR: randn([B, T, R + 3], dtype).narrow(-1, 3, R), // not contiguous, as it comes
    cos_NR: angles_NR.cos(),
    sin_NR: angles_NR.sin(),
    kv_HXC: randn([H, nope + V, C], dtype),
    ...{ table_BM, position_BT, block, nope, scale: 0.3 },
  };
  const held_SW = randn([2 * B * M * block, C + R], dtype);
  const [[fused, wrote], [plain, expected]] = [false, true].map((off) => {
    usePlain(off);
    const cache_SW = held_SW.clone();
    return [mlaDecode({ ...inputs, cache_SW }), cache_SW] as const;
  }) as [readonly [Tensor, Tensor], readonly [Tensor, Tensor]];
  expect(fused.shape).toEqual([B, T, H, V]);
  const apart = (a: Tensor, b: Tensor) => a.sub(b).norm().item() / b.norm().item();
  expect(apart(fused, plain)).toBeLessThan(TOLERANCE[dtype]);
  expect(apart(wrote, expected)).toBeLessThan(TOLERANCE[dtype]);
  expect(wrote.ne(held_SW).any(-1).sum().item()).toBe(B * T);

  usePlain(false);
  const last = B - 1; // the last sequence alone: the same bits
  const of = (t: Tensor) => t.narrow(0, last, 1);
  const rows = (t: Tensor) => t.narrow(0, last * T, T);
  const alone = mlaDecode({
    ...inputs,
    q_BTHK: of(inputs.q_BTHK),
    latent_BTC: of(inputs.latent_BTC),
    kPe_BTR: of(inputs.kPe_BTR),
    cos_NR: rows(inputs.cos_NR),
    sin_NR: rows(inputs.sin_NR),
    table_BM: of(table_BM),
    position_BT: of(position_BT),
    cache_SW: held_SW.clone(),
  });
  expect(torch.equal(alone, of(fused))).toBe(true);
});

test("mla_decode refuses a position outside its sequence's blocks, and a block outside the cache", () => {
  const run = (block: number, position: number) =>
    mlaDecode({
      q_BTHK: torch.zeros([1, 1, 1, 4]),
      latent_BTC: torch.zeros([1, 1, 3]),
      kPe_BTR: torch.zeros([1, 1, 2]),
      cos_NR: torch.ones([1, 1]),
      sin_NR: torch.zeros([1, 1]),
      cache_SW: torch.zeros([8, 5]),
      table_BM: torch.tensor(Int32Array.of(block), { shape: [1, 1] }),
      position_BT: torch.tensor(Int32Array.of(position), { shape: [1, 1] }),
      kv_HXC: torch.zeros([1, 4, 3]),
      ...{ block: 4, nope: 2, scale: 1 },
    });
  expect(() => run(0, 4)).toThrow("found position 4 in 1 blocks of 4");
  expect(() => run(2, 0)).toThrow("found block 2 in a cache of 2");
  expect(run(1, 3).shape).toEqual([1, 1, 1, 2]);
});

/** x in bfloat16 beside weights in bfloat16 or float32, results in either: against float32 on the same numbers. */
