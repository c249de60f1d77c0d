import { rotary, type Tensor, torch } from "@massif/torch";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Model } from "../model/index.ts";
import { tinyConfig, tinyModel } from "./fixture.ts";
import { MuonClip, MuonClipConfig } from "./muonclip.ts";
import { headsToClip } from "./qk-clip.ts";

let scope: ReturnType<typeof torch.scope>;
beforeEach(() => {
  scope = torch.scope();
});
afterEach(() => scope.end());

const T = 9;

/** Every softmax input of a layer, [B, H, T, T], from its weights, and the maxima that its own attention reports. */
function logits(model: Model, layer: number, x_BTD: Tensor): { all_BHTT: Tensor; max_H: number[] } {
  using _ = torch.noGrad();
  const { qkNopeHeadDim: nope, qkRopeHeadDim: rope, numAttentionHeads: H } = model.config;
  const block = model.blocks[layer]!;
  const context = model.context(T);
  const { q_BTHK, latent_BTC, kPe_BTR } = block.project(x_BTD);
  const kv_BTHX = torch.linear(latent_BTC, block.weight("self_attn.kv_b_proj.weight")).unflatten(-1, [H, -1]);
  const turn = (x: Tensor) => rotary(x, context.cos_TR, context.sin_TR);
  const q_BHTK = torch.cat([q_BTHK.narrow(-1, 0, nope), turn(q_BTHK.narrow(-1, nope, rope))], -1).transpose(1, 2);
  const kPe_BTHR = turn(kPe_BTR).unsqueeze(2).expand([-1, -1, H, -1]);
  const k_BHTK = torch.cat([kv_BTHX.narrow(-1, 0, nope), kPe_BTHR], -1).transpose(1, 2);
  const [, maxLogit_H] = block.attention({ q_BTHK, latent_BTC, kPe_BTR }, context);
  return { all_BHTT: q_BHTK.matmul(k_BHTK.mT).mul(block.scale), max_H: maxLogit_H.toArray() };
}

test.for([8, null])("after a clip every logit of a clipped head is γ times what it was (qLoraRank %s)", (qLoraRank) => {
  const model = tinyModel({ qLoraRank, initializerRange: 1 });
  torch.manualSeed(2);
  const x_BTD = torch.randn([2, T, 12], { dtype: "float64" });
  const before = model.blocks.map((_, layer) => logits(model, layer, x_BTD));
  const causal = torch.ones([T, T], { dtype: "bool" }).tril();
  for (const { all_BHTT, max_H } of before) {
    const seen = all_BHTT.masked_fill(causal.logical_not(), -Infinity).amax([0, 2, 3]).toArray();
    // The maximum is kept in float32: 6e-8 of it.
    for (const [head, max] of max_H.entries()) expect(Math.abs(max / seen[head]! - 1)).toBeLessThan(1e-7);
  }

  // Between the second and the third of the six heads: some of a layer are clipped, some are not.
  const sorted = before.flatMap(({ max_H }) => max_H).sort((a, b) => b - a);
  const threshold = (sorted[2]! + sorted[3]!) / 2;
  const optimizer = new MuonClip(model, MuonClipConfig.parse({ qkClip: threshold }));
  const copies = new Map([...model.parameters].map(([name, value]) => [name, value.detach().clone()]));
  const maxima = before.map(({ max_H }) => max_H);
  const { clipped } = optimizer.step(0, maxima); // at learning rate 0 only the clip moves weights
  expect(clipped.flat().length).toBe(3);

  for (const [layer, { all_BHTT, max_H }] of before.entries()) {
    const after = logits(model, layer, x_BTD);
    for (const [head, max] of max_H.entries()) {
      const gamma = max > threshold ? threshold / max : 1;
      const [was, is] = [all_BHTT.select(1, head), after.all_BHTT.select(1, head)];
      if (gamma === 1) expect(torch.equal(is, was)).toBe(true);
      else expect(is.div(was).sub(gamma).abs().max().item()).toBeLessThan(1e-10);
      if (gamma < 1) expect(Math.abs(after.max_H[head]! / threshold - 1)).toBeLessThan(1e-7);
    }
  }
  // Nothing but the query and no-position key rows of clipped heads has moved.
  const q = qLoraRank === null ? "q_proj" : "q_b_proj";
  for (const [name, was] of copies) {
    const is = model.parameter(name).detach();
    const layer = Number(/layers\.(\d+)/.exec(name)?.[1] ?? -1);
    const rows = name.endsWith(`${q}.weight`) ? 6 : name.endsWith("kv_b_proj.weight") ? 9 : 0;
    const changed = is.ne(was).any(-1).toArray();
    for (const [row, moved] of changed.entries()) {
      const clip = rows > 0 && clipped[layer]!.some(({ head }) => head === Math.floor(row / rows));
      expect(Boolean(moved), `${name} row ${row}`).toBe(clip && (rows === 6 || row % rows < 4));
    }
  }
  optimizer.dispose();
  model.dispose();
});

test("maxima that are zero, negative or −∞ ask for nothing; a threshold is not above itself", () => {
  expect(headsToClip([0, -5, -Infinity, 100], 100)).toEqual([]);
  expect(headsToClip(Float32Array.of(50, 200, -300), 100)).toEqual([{ head: 1, gamma: 0.5 }]);
});

test.for([Number.NaN, Infinity])("a maximum of %s refuses the step before anything moves", (bad) => {
  const model = tinyModel();
  const optimizer = new MuonClip(model, MuonClipConfig.parse({}));
  for (const { grad } of optimizer.groups) grad.fill_(0.1);
  const before = [...model.parameters.values()].map((value) => value.detach().clone());
  expect(() =>
    optimizer.step(1, [
      [1, 2, 3],
      [1, bad, 3],
    ]),
  ).toThrow(`the largest logit of head 1 is ${bad}`);
  for (const [i, value] of [...model.parameters.values()].entries())
    expect(torch.equal(value.detach(), before[i]!)).toBe(true);
  for (const [name, tensor] of optimizer.state()) expect(tensor.abs().max().item(), name).toBe(0);
});

test("without a threshold nothing is clipped", () => {
  const optimizer = new MuonClip(tinyModel(), MuonClipConfig.parse({ qkClip: null }));
  expect(
    optimizer.step(0, [
      [1e9, 1, 1],
      [1, 1, 1],
    ]).clipped,
  ).toEqual([[], []]);
  expect(tinyConfig().numAttentionHeads).toBe(3);
});
