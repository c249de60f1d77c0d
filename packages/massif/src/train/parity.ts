/**
 * Parity with transformers: a folder made by `bench/peers/hf_reference.py` holds a checkpoint and what the reference
 * implementation computes with it; here the same is computed by the product's own path (the trainer, block by block, its
 * activations kept and recomputed; fused operators and their plain twins) and compared. Each figure is the worst of all ways.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { SafeTensors, type Tensor, torch, usePlain } from "@massif/torch";
import { MassifError } from "../common/index.ts";
import { generateGreedy, loadModel, type Model, readConfig, saveModel, writeConfig } from "../model/index.ts";
import { MuonClipConfig } from "../optim/index.ts";
import { IGNORE, type Rows } from "./data/index.ts";
import type { Activations } from "./tape.ts";
import { Trainer } from "./trainer.ts";

export interface ParityReport {
  /** Largest difference of a float32 logit. */
  logitsMaxAbs: number;
  /** Of the mean next-token cross-entropy, nats. */
  lossAbs: number;
  /** ‖g − reference‖ / ‖reference‖ of the worst checkpoint tensor. */
  gradRelMax: number;
  /** Largest difference of a logit when everything is float64. */
  logitsFp64MaxAbs: number;
  /** Every token goes to the same set of experts. */
  routingEqual: boolean;
  /** The same greedy continuation. */
  greedyEqual: boolean;
  /** Saved again: the same names and bytes, and a config that reads back the same in both layouts. */
  roundTripEqual: boolean;
  ok: boolean;
}

/**
 * What counts as equal. Logits: float32 sums in another order, on logits of size 1 to 10. Loss: a mean of log-probabilities,
 * in which the errors of single logits average out; its own float32 sum rounds at 1e-6.
 */
export const PARITY_BARS = { logitsMaxAbs: 3e-5, lossAbs: 1e-5, gradRelMax: 1e-5, logitsFp64MaxAbs: 1e-10 } as const;

/** Compares a reference folder. Throws `checkpoint.*`, `model.config`, `torch.safetensors` for one that is not whole. */
export function parity(folder: string): ParityReport {
  using _ = torch.scope();
  checkLayouts(folder);
  const reference = new SafeTensors(join(folder, "reference.safetensors"));
  const ids_BT = reference.get("input_ids");
  const ways = [false, true].map((plain) => withOperators(plain, () => oneWay(folder, reference, ids_BT)));
  const worst = (key: keyof typeof PARITY_BARS) => Math.max(...ways.map((way) => way[key]));
  const all = (key: "routingEqual" | "greedyEqual") => ways.every((way) => way[key]);
  const report = {
    logitsMaxAbs: worst("logitsMaxAbs"),
    lossAbs: worst("lossAbs"),
    gradRelMax: worst("gradRelMax"),
    logitsFp64MaxAbs: worst("logitsFp64MaxAbs"),
    routingEqual: all("routingEqual"),
    greedyEqual: all("greedyEqual"),
    roundTripEqual: roundTrip(folder),
  };
  return { ...report, ok: Object.entries(report).every(([key, value]) => passes(key, value)) };
}

/** The verdict on one figure of a report. A NaN fails. */
export const passes = (key: string, value: number | boolean): boolean =>
  typeof value === "boolean" ? value : value <= PARITY_BARS[key as keyof typeof PARITY_BARS];

function withOperators<T>(plain: boolean, fn: () => T): T {
  usePlain(plain);
  try {
    return fn();
  } finally {
    usePlain(false);
  }
}

function oneWay(folder: string, reference: SafeTensors, ids_BT: Tensor) {
  using _ = torch.noGrad();
  const model = loadModel(folder, { dtype: "float32" });
  const { logits_BTV, routingEqual } = forward(model, reference, ids_BT);
  const greedyEqual = continuesAlike(model, ids_BT, reference.get("decode.ids"));
  model.dispose();
  const wide = loadModel(folder, { dtype: "float64" });
  const logitsFp64MaxAbs = maxAbs(forward(wide, reference, ids_BT).logits_BTV, reference.get("logits_fp64"));
  wide.dispose();
  const trained = (["keep", "recompute"] as const).map((policy) => gradients(folder, reference, ids_BT, policy));
  return {
    logitsMaxAbs: maxAbs(logits_BTV, reference.get("logits")),
    lossAbs: Math.max(...trained.map((t) => t.lossAbs)),
    gradRelMax: Math.max(...trained.map((t) => t.gradRelMax)),
    logitsFp64MaxAbs,
    routingEqual,
    greedyEqual,
  };
}

/** Logits, and whether each token's experts, sorted by id, are the reference's. */
function forward(model: Model, reference: SafeTensors, ids_BT: Tensor) {
  let routingEqual = true;
  const x_BTD = model.forward(ids_BT, model.context(ids_BT.shape[1]!), ({ idx_Nk }, layer) => {
    const name = `router.${layer}.topk_idx`;
    if (reference.has(name) !== (idx_Nk !== undefined)) routingEqual = false;
    else if (idx_Nk) routingEqual &&= torch.equal(idx_Nk.sort(-1)[0], reference.get(name));
  });
  return { logits_BTV: model.logits(x_BTD), routingEqual };
}

/** The likeliest token again and again: each time from the whole text, and with the latent cache. */
function continuesAlike(model: Model, ids_BT: Tensor, expected_BT: Tensor): boolean {
  const T = ids_BT.shape[1]!;
  const steps = expected_BT.shape[1]! - T;
  let whole_BT = ids_BT;
  for (let i = 0; i < steps; i++) {
    const x_BD = model.forward(whole_BT).select(1, -1);
    whole_BT = torch.cat([whole_BT, model.logits(x_BD).argmax(-1, true)], 1);
  }
  const cached = generateGreedy(model, ids_BT.tolist() as number[][], steps);
  return torch.equal(whole_BT, expected_BT) && isDeepStrictEqual(cached, expected_BT.narrow(1, T, steps).tolist());
}

function gradients(folder: string, reference: SafeTensors, ids_BT: Tensor, activations: Activations) {
  using _ = torch.enableGrad();
  const trainer = new Trainer(loadModel(folder, { dtype: "float32" }), {
    optimizer: MuonClipConfig.parse({}),
    precision: "float32",
    activations,
    balanceLoss: 0,
  });
  const { loss } = trainer.gradients([nextToken(ids_BT)]);
  const ours = new Map<string, Tensor>();
  for (const { spec, grad } of trainer.optimizer.groups.flatMap(({ members }) => members)) {
    const { count, name, shape } = spec.pieces;
    const stacked = grad.view([count, ...shape]);
    for (let i = 0; i < count; i++) ours.set(`grad.${name(i)}`, stacked.select(0, i));
  }
  const names = tensorNames(reference).filter((name) => name.startsWith("grad."));
  const theirs = names.map((name) => reference.get(name).to("float64"));
  const norms = theirs.map((g) => g.norm().item());
  const whole = Math.hypot(...norms);
  const gradRelMax = Math.max(
    ...names.map((name, i) => {
      const g = ours.get(name);
      // What is zero but for rounding (a router with one choice, a query that sees one key) is held against the whole.
      const size = norms[i]! > 1e-6 * whole ? norms[i]! : whole;
      return g ? g.to("float64").sub(theirs[i]!).norm().item() / size : Number.NaN;
    }),
    ours.size === names.length ? 0 : Number.NaN,
  );
  trainer.discard();
  trainer.dispose();
  return { lossAbs: Math.abs(loss - reference.get("loss").item()), gradRelMax };
}

/** Rows whose every token but the last of each is a context, and the one after it the target. */
function nextToken(ids_BT: Tensor): Rows {
  const [batch, seqLen] = ids_BT.shape as [number, number];
  const ids = Int32Array.from(ids_BT.toArray());
  const targets = ids.map((_, i) => ((i + 1) % seqLen ? ids[i + 1]! : IGNORE));
  return { batch, seqLen, ids, targets, docStart: new Int32Array(batch * seqLen) };
}

function roundTrip(folder: string): boolean {
  const again = mkdtempSync(join(tmpdir(), "massif-parity-"));
  const model = loadModel(folder);
  try {
    saveModel(model, again);
    const [before, after] = [new SafeTensors(folder), new SafeTensors(again)];
    const config = readConfig(folder);
    const configsEqual = (["deepseek_v3", "kimi_k2"] as const).every((layout) => {
      writeConfig(again, config, "float32", layout);
      return isDeepStrictEqual(readConfig(again), config);
    });
    return (
      configsEqual &&
      isDeepStrictEqual(tensorNames(before), tensorNames(after)) &&
      tensorNames(before).every((name) => {
        const [a, b] = [before.get(name), after.get(name)];
        return a.dtype === b.dtype && `${a.shape}` === `${b.shape}` && Buffer.compare(a.bytes(), b.bytes()) === 0;
      })
    );
  } finally {
    model.dispose();
    rmSync(again, { recursive: true });
  }
}

/** Both layouts of config.json must say the same model. */
function checkLayouts(folder: string): void {
  const kimi = join(folder, "config.kimi_k2.json");
  if (existsSync(kimi) && !isDeepStrictEqual(readConfig(kimi), readConfig(folder)))
    throw new MassifError("parity.config", {
      found: `${kimi} and config.json beside it read as different models`,
      expected: "one configuration in two layouts",
    });
}

const maxAbs = (a: Tensor, b: Tensor): number => a.to("float64").sub(b.to("float64")).abs().max().item() as number;

/** The names of a file, without tensors that have no elements (transformers writes shared experts of width 0). */
const tensorNames = (file: SafeTensors): string[] =>
  file.names.filter((name) => !file.entry(name).shape.includes(0)).sort();
