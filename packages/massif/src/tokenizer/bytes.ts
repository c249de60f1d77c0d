/** GPT-2's order and spelling of the 256 bytes: printable ones first, and each byte as a visible character. Kimi K2's
 *  ranks 0–255 are in this order; Hugging Face's tokenizer.json spells tokens in these characters. */

/** rank → byte: 33–126, 161–172, 174–255, then 0–32, 127–160, 173. */
export const byteOrder: readonly number[] = (() => {
  const printable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  const all = Array.from({ length: 256 }, (_, b) => b);
  return [...all.filter(printable), ...all.filter((b) => !printable(b))];
})();

const charOf: string[] = [];
for (const [rank, byte] of byteOrder.entries()) {
  charOf[byte] = String.fromCharCode(rank < 188 ? byte : 256 + rank - 188);
}
const byteOf = new Map(charOf.map((char, byte) => [char, byte]));

/** A token as tokenizer.json spells it: one visible character a byte (`Ġ` is a space). */
export function spell(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += charOf[byte];
  return text;
}

/** The bytes of a spelled token; undefined when a character stands for no byte. */
export function unspell(text: string): Uint8Array | undefined {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) {
    const byte = byteOf.get(text[i]!);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}
