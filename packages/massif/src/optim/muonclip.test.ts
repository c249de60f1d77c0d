import { type Tensor, torch } from "@massif/torch";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkpointTensors, type Model } from "../model/index.ts";
import { fill, tinyModel } from "./fixture.ts";
import { muonStep } from "./muon.ts";
import { MuonClip, MuonClipConfig } from "./muonclip.ts";

let scope: ReturnType<typeof torch.scope>;
beforeEach(() => {
  scope = torch.scope();
});
afterEach(() => scope.end());

const make = (more: object = {}) => {
  const model = tinyModel();
  return { model, optimizer: new MuonClip(model, MuonClipConfig.parse(more)) };
};
const gradients = (optimizer: MuonClip) => optimizer.groups.flatMap(({ members }) => members.map(({ grad }) => grad));
const copied = (model: Model) => new Map([...checkpointTensors(model)].map(([name, t]) => [name, t.clone()]));
/** The gradients under the checkpoint's names. */
function named(optimizer: MuonClip): Map<string, Tensor> {
  const out = new Map<string, Tensor>();
  for (const { spec, grad } of optimizer.groups.flatMap(({ members }) => members)) {
    const stacked = grad.view([spec.pieces.count, ...spec.pieces.shape]);
    for (let i = 0; i < spec.pieces.count; i++) out.set(spec.pieces.name(i), stacked.select(0, i).clone());
  }
  return out;
}

test("every matrix of the checkpoint is orthogonalized on its own: each expert, its gate and its up", () => {
  const { model, optimizer } = make({ gradClip: null, learningRate: 0.02 });
  fill(gradients(optimizer), 1);
  const [before, grads] = [copied(model), named(optimizer)];
  optimizer.step(0.5);
  let matrices = 0;
  for (const [name, is] of checkpointTensors(model)) {
    const [was, grad] = [before.get(name)!, grads.get(name)];
    if (!grad) {
      expect(name).toMatch(/e_score_correction_bias$/);
      expect(torch.equal(is, was)).toBe(true);
    } else if (was.ndim === 2 && !/embed_tokens|lm_head/.test(name)) {
      matrices++;
      const alone = was.unsqueeze(0).clone();
      muonStep(alone, grad.unsqueeze(0), torch.zeros_like(alone), { ...optimizer.config, learningRate: 0.01 });
      expect(is.sub(alone.select(0, 0)).abs().max().item(), name).toBeLessThan(1e-14);
      expect(is.sub(was).abs().max().item(), name).toBeGreaterThan(1e-4);
    } else {
      // Adam's first step: W (1 − ηλ) − η sign(g), but for ε.
      const expected = was.mul(1 - 0.01 * 0.1).sub(grad.sign().mul(0.01));
      expect(is.sub(expected).abs().max().item(), name).toBeLessThan(1e-6);
    }
  }
  // Five of attention a layer, dense MLP, router's gate, shared expert, four experts.
  expect(matrices).toBe(2 * 5 + 3 + 1 + 3 + 4 * 3);
});

test("a weight that gets no gradient still decays", () => {
  const { model, optimizer } = make({ learningRate: 0.1, weightDecay: 0.5 });
  const before = copied(model);
  optimizer.step(1);
  for (const [name, is] of checkpointTensors(model)) {
    const factor = name.endsWith("e_score_correction_bias") ? 1 : 0.95;
    expect(is.sub(before.get(name)!.mul(factor)).abs().max().item(), name).toBeLessThan(1e-15);
  }
});

test("the gradient is clipped by its global norm before the moments; the orthogonal update keeps its size", () => {
  const [clipped, free] = [make({ gradClip: 1 }), make({ gradClip: null })];
  for (const { optimizer } of [clipped, free]) fill(gradients(optimizer), 1);
  const norm = free.optimizer.gradNorm();
  const squares = gradients(free.optimizer).reduce((sum, g) => sum + g.square().sum().item(), 0);
  expect(Math.abs(norm / Math.sqrt(squares) - 1)).toBeLessThan(1e-12);
  expect(norm).toBeGreaterThan(20);
  expect(clipped.optimizer.step(1).gradNorm).toBe(norm);
  free.optimizer.step(1);
  const whole = new Map(free.optimizer.state());
  for (const [name, state] of clipped.optimizer.state()) {
    const power = name.endsWith(".v") ? 2 : name.endsWith(".step") ? 0 : 1;
    const expected = whole.get(name)!.mul(norm ** -power);
    expect(state.sub(expected).abs().max().item(), name).toBeLessThan(1e-14);
  }
  const updates = [clipped, free].map(({ model }) => model.parameter("model.layers.0.self_attn.o_proj.weight"));
  // Newton–Schulz divides by the norm; 1e-7 beside it is all that tells them apart.
  expect(updates[0]!.sub(updates[1]!).abs().max().item()).toBeLessThan(1e-8);
});

test("a norm below the limit is left alone", () => {
  const { optimizer } = make({ gradClip: 1e6 });
  fill(gradients(optimizer), 1);
  const before = gradients(optimizer).map((g) => g.clone());
  optimizer.step(1);
  for (const [i, g] of gradients(optimizer).entries()) expect(torch.equal(g, before[i]!)).toBe(true);
});

test.for(["muon", "adamw"])(
  "from saved weights and state the next step is the same, bit by bit (matrices by %s)",
  (matrices) => {
    const [a, b] = [make({ matrices }), make({ matrices })];
    const names = [...a.optimizer.state()].map(([name]) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(names.some((name) => name.endsWith(".momentum"))).toBe(matrices === "muon");
    for (const seed of [1, 2]) {
      fill(gradients(a.optimizer), seed);
      a.optimizer.step(1, [
        [200, 1, 1],
        [1, 1, 1],
      ]);
    }
    using _ = torch.noGrad();
    for (const [name, value] of a.model.parameters) b.model.parameter(name).copy_(value);
    const saved = new Map(a.optimizer.state());
    for (const [name, tensor] of b.optimizer.state()) tensor.copy_(saved.get(name)!);
    for (const { optimizer } of [a, b]) {
      fill(gradients(optimizer), 3);
      optimizer.step(0.7);
    }
    for (const [name, value] of a.model.parameters)
      expect(torch.equal(b.model.parameter(name), value), name).toBe(true);
    for (const [name, tensor] of b.optimizer.state()) expect(torch.equal(tensor, saved.get(name)!), name).toBe(true);
  },
);

test("dispose frees what the optimizer made", () => {
  const model = tinyModel();
  const before = torch.memory().tensors;
  {
    using _ = torch.scope();
    const optimizer = new MuonClip(model, MuonClipConfig.parse({}));
    optimizer.dispose();
  }
  expect(torch.memory().tensors).toBe(before);
});
