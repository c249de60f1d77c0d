import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { SafeTensors, saveSafetensors, type Tensor, torch } from "@massif/torch";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parity, passes } from "./parity.ts";

const archives = resolve(import.meta.dirname, "../../../../../shared/data/parity");

describe.skipIf(!existsSync(archives))("against transformers", () => {
  let box: string;
  beforeAll(() => {
    box = mkdtempSync(join(tmpdir(), "massif-references-"));
    for (const name of ["a", "b", "c"]) execFileSync("tar", ["xf", join(archives, `${name}.tar.xz`), "-C", box]);
  });
  afterAll(() => rmSync(box, { recursive: true }));

  // The bars of issue 3; what is measured is five times below them (fp64: ten thousand times).
  test.for(["a", "b", "c"])("reference %s is met in every figure, and no tensor stays behind", (name) => {
    const before = torch.memory().tensors;
    const report = parity(join(box, name));
    expect(Object.keys(report)).toEqual([
      "logitsMaxAbs",
      "lossAbs",
      "gradRelMax",
      "logitsFp64MaxAbs",
      "routingEqual",
      "greedyEqual",
      "roundTripEqual",
      "ok",
    ]);
    expect(report.logitsMaxAbs).toBeLessThanOrEqual(3e-5);
    expect(report.lossAbs).toBeLessThanOrEqual(1e-5);
    expect(report.gradRelMax).toBeLessThanOrEqual(1e-5);
    expect(report.logitsFp64MaxAbs).toBeLessThanOrEqual(1e-10);
    expect(report).toMatchObject({ routingEqual: true, greedyEqual: true, roundTripEqual: true, ok: true });
    expect(torch.memory().tensors).toBe(before);
  });

  /** Reference b with one file's tensors or one config changed. */
  function damaged(change: {
    file?: string;
    tensor?: (tensors: Map<string, Tensor>) => void;
    config?: object;
  }): string {
    using _ = torch.scope();
    const folder = mkdtempSync(join(box, "damaged-"));
    for (const file of ["config.json", "config.kimi_k2.json", "model.safetensors", "reference.safetensors"])
      copyFileSync(join(box, "b", file), join(folder, file));
    if (change.file) {
      const path = join(folder, change.file);
      const stored = new SafeTensors(path);
      const tensors = new Map(stored.names.map((name) => [name, stored.get(name).clone()]));
      change.tensor?.(tensors);
      saveSafetensors(path, tensors);
    }
    if (change.config) {
      const path = join(folder, "config.json");
      writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change.config }));
    }
    return folder;
  }

  test("a weight that is a thousandth off is seen in logits and gradients, in both precisions", () => {
    const report = parity(
      damaged({
        file: "model.safetensors",
        tensor: (t) => t.get("model.layers.0.self_attn.kv_b_proj.weight")!.mul_(1.001),
      }),
    );
    for (const key of ["logitsMaxAbs", "gradRelMax", "logitsFp64MaxAbs"] as const)
      expect(passes(key, report[key])).toBe(false);
    expect(report).toMatchObject({ roundTripEqual: true, ok: false });
  });

  test("each other figure fails when its own reference is another", () => {
    const first = (t: Map<string, Tensor>, name: string) => t.get(name)!.flatten().narrow(0, 0, 1);
    const cases: [string, (t: Map<string, Tensor>) => void][] = [
      ["lossAbs", (t) => t.get("loss")!.add_(2e-5)],
      ["routingEqual", (t) => first(t, "router.1.topk_idx").add_(first(t, "router.1.topk_idx").item() ? -1 : 1)],
      ["greedyEqual", (t) => t.get("decode.ids")!.select(1, -1).add_(1)],
      ["gradRelMax", (t) => t.get("grad.model.layers.1.mlp.experts.3.up_proj.weight")!.mul_(1.0001)],
      ["gradRelMax", (t) => t.delete("grad.model.layers.1.mlp.gate.weight")],
    ];
    for (const [key, tensor] of cases) {
      const { ok: _, ...report } = parity(damaged({ file: "reference.safetensors", tensor }));
      const failed = Object.entries(report).filter(([name, value]) => !passes(name, value));
      expect(failed.map(([name]) => name)).toEqual([key]);
    }
  });

  test("a tensor that the config does not ask for is lost in the round trip, and that is seen", () => {
    const extra = (t: Map<string, Tensor>) => void t.set("model.layers.2.extra.weight", torch.ones([2]));
    expect(parity(damaged({ file: "model.safetensors", tensor: extra }))).toMatchObject({
      roundTripEqual: false,
      logitsMaxAbs: expect.any(Number),
      ok: false,
    });
  });

  test("two layouts of config.json that disagree are an error", () => {
    expect(() => parity(damaged({ config: { rms_norm_eps: 1e-5 } }))).toThrow("read as different models");
  });
});
