import { createHash } from "node:crypto";
import { z } from "zod";
import { MassifError } from "../../common/index.ts";

/** Which documents are held out for evaluation. A document's place depends on its id and the seed alone. */
export const SplitConfig = z
  .strictObject({
    fraction: z
      .number()
      .gt(0)
      .lt(1)
      .optional()
      .describe("Each document is held out with this probability; documents added later move none of the others."),
    documents: z
      .int()
      .min(1)
      .optional()
      .describe("Exactly this many are held out, whatever the fraction; documents added later may displace some."),
    seed: z.int().default(0).describe("Another seed holds out other documents."),
  })
  .refine((c) => c.fraction !== undefined || c.documents !== undefined, "expected a fraction or a number of documents");
export type SplitConfig = z.output<typeof SplitConfig>;

/** Document numbers, ascending. */
export interface Split {
  train: Uint32Array;
  heldOut: Uint32Array;
}

/** The stable 64-bit name of a document id, from which every seed derives its own split. */
export function documentKey(id: string): bigint {
  return createHash("sha256").update(id).digest().readBigUInt64LE(0);
}

/** Divides documents by their keys (`documentKey` of their ids).
 *  @throws MassifError `data.split` when one side would be empty. */
export function splitDocuments(keys: BigUint64Array, config: SplitConfig): Split {
  const place = Float64Array.from({ length: keys.length }, (_, i) => position(keys[i]!, config.seed));
  const limit = config.documents === undefined ? config.fraction! : threshold(place, config.documents);
  const train: number[] = [];
  const heldOut: number[] = [];
  for (let i = 0; i < place.length; i++) (place[i]! < limit ? heldOut : train).push(i);
  if (!train.length || !heldOut.length) {
    const what = config.documents ? `${config.documents} documents` : `a fraction of ${config.fraction}`;
    throw new MassifError("data.split", {
      found: `holding out ${what} of ${keys.length} leaves ${train.length} to train on and ${heldOut.length} to evaluate`,
      expected: "at least one document on each side",
      fix: "hold out a fixed number of documents ({ documents: 1 }), or cut long documents into more with maxChars",
    });
  }
  return { train: Uint32Array.from(train), heldOut: Uint32Array.from(heldOut) };
}

/** Just above the `count`-th smallest place. Equal places (equal ids) stay on one side. */
function threshold(place: Float64Array, count: number): number {
  return place.toSorted()[count] ?? Number.POSITIVE_INFINITY;
}

/** A number in [0, 1) from a key and a seed: the finalizer of splitmix64, top 53 bits. */
function position(key: bigint, seed: number): number {
  let z = BigInt.asUintN(64, key + BigInt(seed) * 0x9e3779b97f4a7c15n);
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  return Number((z ^ (z >> 31n)) >> 11n) / 2 ** 53;
}
