/** A seeded source of random numbers whose whole state is one JSON value: xoshiro128** seeded by splitmix32. */
export class Random {
  #s: [number, number, number, number];

  constructor(seed: number | string) {
    let h = typeof seed === "number" ? seed | 0 : hash32(seed);
    const next = () => {
      h = (h + 0x9e3779b9) | 0;
      let z = Math.imul(h ^ (h >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return (z ^ (z >>> 15)) >>> 0;
    };
    this.#s = [next(), next(), next(), next()];
  }

  /** An independent stream named by `key`: the same seed and key give the same stream, whatever was drawn before. */
  static of(seed: number | string, ...key: (number | string)[]): Random {
    return new Random(hash32(JSON.stringify([seed, ...key])));
  }

  /** A whole number in [0, 2³²). */
  uint32(): number {
    const s = this.#s;
    const product = Math.imul(s[1], 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  /** A number in [0, 1) with 53 random bits. */
  float(): number {
    return ((this.uint32() >>> 5) * 0x4000000 + (this.uint32() >>> 6)) / 0x20000000000000;
  }

  /** A whole number in [0, n), without modulo bias for n up to 2³². */
  int(n: number): number {
    const limit = 0x100000000 - (0x100000000 % n);
    let x = this.uint32();
    while (x >= limit) x = this.uint32();
    return x % n;
  }

  pick<T>(items: readonly T[]): T {
    if (!items.length) throw new RangeError("pick from an empty list");
    return items[this.int(items.length)] as T;
  }

  /** Shuffles in place (Fisher–Yates) and returns its argument. */
  shuffle<A extends { length: number; [i: number]: unknown }>(items: A): A {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      [items[i], items[j]] = [items[j], items[i]];
    }
    return items;
  }

  get state(): [number, number, number, number] {
    return [...this.#s];
  }

  set state(s: [number, number, number, number]) {
    this.#s = [...s];
  }
}

/** FNV-1a over UTF-16 code units with a final avalanche: a stable 32-bit name for a string. */
export function hash32(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
