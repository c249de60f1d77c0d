/** Guessing what comes from what stood there before: prompt lookup (Saxena 2023; vLLM's "ngram"). It needs no second
 *  model, and suits work that repeats its input: edits of files, answers that quote. */

export interface Speculate {
  /** Most tokens that must have stood there before; fewer will do where no more are found. */
  ngram: number;
  /** Most tokens guessed a step. */
  max: number;
}

/** What followed the last tokens where they stood before, the latest place first, and the longest match; none where they
 *  never stood. */
export function lookUp(tokens: readonly number[], { ngram, max }: Speculate): number[] {
  const end = tokens.length;
  for (let n = Math.min(ngram, end - 1); n > 0; n--) {
    for (let at = end - n - 1; at >= 0; at--) {
      let same = 0;
      while (same < n && tokens[at + same] === tokens[end - n + same]) same++;
      if (same === n) return tokens.slice(at + n, at + n + max);
    }
  }
  return [];
}
