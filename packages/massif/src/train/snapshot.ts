/** The checkpoint of a training run: a Hugging Face model folder, plus what it takes to go on to the bit. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SafeTensors, saveSafetensors, torch } from "@massif/torch";
import { loadModel, saveModel } from "../model/index.ts";
import { saveTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import type { GuardState } from "./guard.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

/** `S` is the place in the order of the data. */
export interface TrainState<S = unknown> {
  step: number;
  /** Targets trained on. */
  tokens: number;
  order: S;
  guard: GuardState;
}

/** Writes config.json, weights, tokenizer, optimizer.safetensors and state.json. */
export async function writeSnapshot(
  folder: string,
  trainer: Trainer,
  tokenizer: Tokenizer,
  state: TrainState,
): Promise<void> {
  saveModel(trainer.master, folder);
  await saveTokenizer(tokenizer, folder);
  saveSafetensors(join(folder, "optimizer.safetensors"), trainer.optimizer.state());
  writeFileSync(join(folder, "state.json"), JSON.stringify(state));
}

/** A trainer exactly as it was saved. */
export function readSnapshot<S>(
  folder: string,
  config: TrainerConfig,
  device: string,
): { trainer: Trainer; state: TrainState<S> } {
  const trainer = new Trainer(loadModel(folder, { device }), config);
  using _ = torch.scope();
  const saved = new SafeTensors(join(folder, "optimizer.safetensors"));
  for (const [name, tensor] of trainer.optimizer.state()) tensor.copy_(saved.get(name));
  return { trainer, state: JSON.parse(readFileSync(join(folder, "state.json"), "utf8")) as TrainState<S> };
}
