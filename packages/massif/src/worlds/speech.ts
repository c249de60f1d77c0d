/** What a sentence says, as far as code can tell: its words and numbers, exactly. */

/** Lower-case words and numbers; dots, colons, hyphens and @ inside a word belong to it (10:30, ann@mail.test). */
export function tokens(text: string): string[] {
  return (text.toLowerCase().match(/-?[\p{L}\p{N}]+(?:[.:@_-][\p{L}\p{N}]+)*/gu) ?? []).map((t) =>
    /^-\D/.test(t) ? t.slice(1) : t,
  );
}

/** Whether the words of `phrase` stand side by side in the text. */
export function says(words: readonly string[], phrase: string): boolean {
  const wanted = tokens(phrase);
  if (!wanted.length) return false;
  for (let i = 0; i + wanted.length <= words.length; i++) if (wanted.every((w, j) => words[i + j] === w)) return true;
  return false;
}

export const saysAny = (words: readonly string[], phrases: readonly string[]): boolean =>
  phrases.some((p) => says(words, p));
