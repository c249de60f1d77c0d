/** Learning-rate schedules. WSD is K2's (arXiv 2507.20534 §2.5): linear warm-up, a constant stretch, cosine decay. */
import { z } from "zod";

export const ScheduleConfig = z.strictObject({
  warmupSteps: z.int().min(0).default(20).describe("Steps of linear warm-up"),
  decayFraction: z
    .number()
    .min(0)
    .max(1)
    .default(0.35)
    .describe("Share of all steps spent in the cosine decay at the end (K2: 5.5 of 15.5)"),
  finalRatio: z
    .number()
    .min(0)
    .max(1)
    .default(0.1)
    .describe("Last learning rate as a share of the peak (K2: 2e-5 of 2e-4)"),
});
export type ScheduleConfig = z.infer<typeof ScheduleConfig>;

/** The learning rate, as a share of the peak, of step `step` (0 is the first) of `steps`. */
export function wsd(step: number, steps: number, { warmupSteps, decayFraction, finalRatio }: ScheduleConfig): number {
  if (step < warmupSteps) return (step + 1) / warmupSteps;
  const decaySteps = Math.round(steps * decayFraction);
  const into = step - (steps - decaySteps);
  if (into < 0 || decaySteps === 0) return 1;
  const progress = Math.min(1, (into + 1) / decaySteps);
  return finalRatio + (1 - finalRatio) * 0.5 * (1 + Math.cos(Math.PI * progress));
}
