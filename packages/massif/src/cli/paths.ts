/** Where things lie: the repository's recipes, and the model inside a run folder. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { MassifError } from "../common/index.ts";
import { STAGES } from "../story/index.ts";
import { Checkpoints } from "../train/index.ts";

export const recipesFolder = (): string => resolve(import.meta.dirname, "../../../../recipes");

/** A folder with config.json and weights: `path` itself, the last checkpoint of the run folder `path`, or that of the last
 *  stage in the folder of a story. */
export function modelFolder(path: string): string {
  if (existsSync(join(path, "model.safetensors")) || existsSync(join(path, "model.safetensors.index.json")))
    return path;
  for (const run of [path, ...STAGES.toReversed().map((stage) => join(path, stage))]) {
    const latest = existsSync(join(run, "checkpoints"))
      ? new Checkpoints(join(run, "checkpoints")).latest()
      : undefined;
    if (latest) return latest.dir;
  }
  throw new MassifError("cli.model", {
    found: `there is no model in ${path}`,
    expected: "a checkpoint folder (config.json and model.safetensors) or a run folder with checkpoints",
    fix: "npm start makes one in runs/speedrun",
  });
}
