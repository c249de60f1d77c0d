/**
 * Where parameters, gradients and optimizer state lie while a model is trained. Parameters that are treated alike share
 * one block of memory (all matrices of a shape; all gains), so a step is a handful of calls on whole stacks, gradients
 * are accumulated straight into place, and nothing is gathered or scattered. Each parameter remains a view.
 */
import { type Tensor, torch } from "@massif/torch";
import { numel, type ParameterSpec } from "../model/index.ts";

export interface Group {
  /** A stable name for checkpoints: `muon.64x128`, `adamw.lm_head.weight`, `adamw.gains`. */
  name: string;
  optimizer: "muon" | "adamw";
  /** [N, A, B] for Muon; flat or as it is for AdamW. */
  value: Tensor;
  grad: Tensor;
  /** Leaves that require gradients. */
  members: { spec: ParameterSpec; value: Tensor; grad: Tensor }[];
}

/** A matrix parameter is a stack of matrices: the pieces that a checkpoint keeps apart, each orthogonalized on its own. */
const matrixShape = ({ pieces }: ParameterSpec) => pieces.shape as [number, number];

function groupName(spec: ParameterSpec): string {
  if (spec.kind === "matrix") return `muon.${matrixShape(spec).join("x")}`;
  return spec.kind === "embedding" ? `adamw.${spec.name}` : "adamw.gains";
}

/**
 * Moves the parameters of a model into groups; buffers stay where they are. `parameters` is updated to the new views.
 */
export function makeGroups(specs: readonly ParameterSpec[], parameters: Map<string, Tensor>): Group[] {
  using _ = torch.noGrad();
  const byName = new Map<string, ParameterSpec[]>();
  for (const spec of specs) {
    if (spec.kind === "buffer") continue;
    const name = groupName(spec);
    byName.set(name, [...(byName.get(name) ?? []), spec]);
  }
  return [...byName].map(([name, members]) => makeGroup(name, members, parameters));
}

function makeGroup(name: string, specs: ParameterSpec[], parameters: Map<string, Tensor>): Group {
  const first = parameters.get(specs[0]!.name)!;
  const { dtype, device } = first;
  const total = specs.reduce((sum, spec) => sum + numel(spec.shape), 0);
  const optimizer = specs[0]!.kind === "matrix" ? "muon" : "adamw";
  const shape = optimizer === "muon" ? [-1, ...matrixShape(specs[0]!)] : specs.length === 1 ? specs[0]!.shape : [total];
  using _ = torch.scope();
  const block = () => torch.zeros([total], { dtype, device });
  const [value, grad] = [block(), block()];
  const members: Group["members"] = [];
  let at = 0;
  for (const spec of specs) {
    const size = numel(spec.shape);
    const view = (whole: Tensor) => torch.keep(whole.narrow(0, at, size).view(spec.shape));
    const mine = view(value);
    mine.copy_(parameters.get(spec.name)!);
    parameters.get(spec.name)!.dispose();
    parameters.set(spec.name, mine);
    members.push({ spec, value: mine, grad: view(grad) });
    at += size;
  }
  const shaped = (t: Tensor) => torch.keep(t.view(shape));
  for (const member of members) member.value.requiresGrad = true;
  return { name, optimizer, value: shaped(value), grad: shaped(grad), members };
}
