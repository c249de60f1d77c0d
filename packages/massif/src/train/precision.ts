/** In what a run computes its products, and what its record says of how. */
import { fastestProducts, operatorPath, torch } from "@massif/torch";
import { z } from "zod";

export const PrecisionConfig = z.enum(["float32", "bfloat16", "fastest"]);

/** Masters, residual stream, norms, router and losses stay float32. */
export type Precision = "float32" | "bfloat16";

interface Computing {
  precision: z.infer<typeof PrecisionConfig>;
  device: string;
}

export const precisionOf = ({ precision, device }: Computing): Precision =>
  precision === "fastest" ? fastestProducts(device) : precision;

/** For the record of a start: the same recipe elsewhere may run by other operators. */
export const computingFacts = (recipe: Computing & { seed: number }): Record<string, unknown> => ({
  ...{ seed: recipe.seed, device: recipe.device, precision: precisionOf(recipe) },
  ...(recipe.device === "cpu" && { operators: operatorPath() }),
  ...{ torch: torch.info().torch, threads: torch.getNumThreads() },
});
