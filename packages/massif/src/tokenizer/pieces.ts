/** A set of strings, kept as code units in one arena and numbered in the order they came: found without making a string,
 *  which is where a `Map<string, …>` spends its time. Serves the encoder as cache key and the trainer as word list. */
export class PieceSet {
  /** How many pieces there are; they are numbered from 0. */
  size = 0;
  /** Pieces' code units; piece i is [starts[i], starts[i + 1]). */
  units = new Uint16Array(1 << 12);
  starts = new Int32Array(1 << 10);
  /** Hash and number + 1 of a piece, in turn; 0 is free. Never more than half full. */
  #slots = new Int32Array(1 << 12);

  /** The number of the piece text[start, end), which is added if it is new: then it is `size - 1` from now on. */
  add(text: Uint16Array, start: number, end: number): number {
    let hash = end - start;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ text[i]!, 0x01000193);
    hash ^= hash >>> 15;
    const slots = this.#slots;
    const mask = slots.length - 1;
    let at = (hash << 1) & mask;
    for (let n = slots[at + 1]!; n; n = slots[at + 1]!) {
      if (slots[at] === hash && this.#is(n - 1, text, start, end)) return n - 1;
      at = (at + 2) & mask;
    }
    slots[at] = hash;
    slots[at + 1] = this.size + 1;
    return this.#append(text, start, end);
  }

  #is(piece: number, text: Uint16Array, start: number, end: number): boolean {
    let at = this.starts[piece]!;
    if (this.starts[piece + 1]! - at !== end - start) return false;
    const units = this.units;
    for (let i = start; i < end; i++) if (units[at++] !== text[i]) return false;
    return true;
  }

  #append(text: Uint16Array, start: number, end: number): number {
    const from = this.starts[this.size]!;
    const to = from + end - start;
    if (to > this.units.length) this.units = grown(this.units, to);
    for (let i = start; i < end; i++) this.units[from + i - start] = text[i]!;
    if (this.size + 2 > this.starts.length) this.starts = grown(this.starts, this.size + 2);
    this.starts[++this.size] = to;
    if (this.size * 4 > this.#slots.length) this.#rehash();
    return this.size - 1;
  }

  #rehash(): void {
    const old = this.#slots;
    const slots = new Int32Array(old.length * 2);
    const mask = slots.length - 1;
    for (let i = 0; i < old.length; i += 2) {
      if (!old[i + 1]) continue;
      let at = (old[i]! << 1) & mask;
      while (slots[at + 1]) at = (at + 2) & mask;
      slots[at] = old[i]!;
      slots[at + 1] = old[i + 1]!;
    }
    this.#slots = slots;
  }

  clear(): void {
    this.size = 0;
    this.#slots.fill(0);
  }
}

/** A copy with room for at least `length`, and at least twice as long. */
export function grown<A extends Uint16Array | Int32Array | Float64Array | Uint8Array>(array: A, length: number): A {
  const Kind = array.constructor as new (length: number) => A;
  const longer = new Kind(Math.max(length, array.length * 2));
  longer.set(array);
  return longer;
}

/** Writes text[start, end) as UTF-8 and returns how many bytes; a lone surrogate becomes U+FFFD, as everywhere in the
 *  web platform. `bytes` has room for three a unit. */
export function toUtf8(text: Uint16Array, start: number, end: number, bytes: Uint8Array): number {
  let n = 0;
  for (let i = start; i < end; i++) {
    let c = text[i]!;
    if (c < 0x80) {
      bytes[n++] = c;
      continue;
    }
    if (c < 0x800) {
      bytes[n++] = 0xc0 | (c >> 6);
      bytes[n++] = 0x80 | (c & 0x3f);
      continue;
    }
    if ((c & 0xf800) === 0xd800) {
      const low = i + 1 < end ? text[i + 1]! : 0;
      if (c < 0xdc00 && (low & 0xfc00) === 0xdc00) {
        c = 0x10000 + ((c & 0x3ff) << 10) + (low & 0x3ff);
        i++;
        bytes[n++] = 0xf0 | (c >> 18);
        bytes[n++] = 0x80 | ((c >> 12) & 0x3f);
        bytes[n++] = 0x80 | ((c >> 6) & 0x3f);
        bytes[n++] = 0x80 | (c & 0x3f);
        continue;
      }
      c = 0xfffd;
    }
    bytes[n++] = 0xe0 | (c >> 12);
    bytes[n++] = 0x80 | ((c >> 6) & 0x3f);
    bytes[n++] = 0x80 | (c & 0x3f);
  }
  return n;
}
