/** Text of worlds for pre-training: the words that conversations are made of, tool declarations and results with them, so
 *  that the tokenizer and the model have met them before SFT. */
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import type { z } from "zod";
import { type DemonstrationConfig, demonstrate } from "../agent/index.ts";
import { render, type TemplateName } from "../chat/index.ts";
import { writeJsonl } from "../common/index.ts";

/** Writes rows `{ text }` to `file`, unless they are there. Control tokens are left out: text is never one. */
export async function writeWorldText(
  file: string,
  config: z.output<typeof DemonstrationConfig>,
  { template, seed }: { template: TemplateName; seed: number },
): Promise<void> {
  if (existsSync(file)) return;
  mkdirSync(dirname(file), { recursive: true });
  async function* rows() {
    for await (const { messages, tools = [] } of demonstrate(config, seed)) {
      const segments = render({ template, messages, tools }).filter(({ control }) => !control);
      yield { text: segments.map(({ text }) => text).join("\n") };
    }
  }
  await writeJsonl(`${file}.partial`, rows());
  renameSync(`${file}.partial`, file);
}
