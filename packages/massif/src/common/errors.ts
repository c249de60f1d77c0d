/** What a person sees when something is wrong: what was found, what was expected, what to do next. */
export interface Trouble {
  found: string;
  expected?: string;
  fix?: string;
  cause?: unknown;
}

/** The one error class of Massif. `code` is stable (`room.what`); the message is for people. */
export class MassifError extends Error {
  readonly code: string;
  readonly trouble: Trouble;

  constructor(code: string, trouble: Trouble) {
    const lines = [trouble.found];
    if (trouble.expected) lines.push(`expected: ${trouble.expected}`);
    if (trouble.fix) lines.push(`to fix: ${trouble.fix}`);
    super(lines.join("\n  "), { cause: trouble.cause });
    this.name = "MassifError";
    this.code = code;
    this.trouble = trouble;
  }
}

/** The candidate nearest to `word` by edit distance, for "did you mean"; undefined when nothing is near. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 2)) + 1;
  for (const candidate of candidates) {
    const d = editDistance(word, candidate);
    if (d < least) [best, least] = [candidate, d];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length]!;
}
