/** Where a text may be cut, best first: after a paragraph, a line, a sentence, a word. */
const BREAKS = [/\n\n+/g, /\n/g, /[.!?]["'”’)]*\s/g, /\s/g];

/** Cuts a text into pieces of at most `maxChars` (UTF-16 code units), each at the last best break of its second half.
 *  Nothing is lost: the pieces joined are the text. */
export function* cutText(text: string, maxChars: number): Generator<string> {
  let at = 0;
  while (text.length - at > maxChars) {
    const half = at + (maxChars >> 1);
    const tail = text.slice(half, at + maxChars);
    let end = at + maxChars;
    for (const pattern of BREAKS) {
      const last = [...tail.matchAll(pattern)].at(-1);
      if (!last) continue;
      end = half + last.index + last[0].length;
      break;
    }
    // A text without any break is cut anywhere but inside a character.
    if (/[\ud800-\udbff]/.test(text[end - 1]!)) end--;
    yield text.slice(at, end);
    at = end;
  }
  yield text.slice(at);
}
