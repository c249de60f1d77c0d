/** Pairs of symbols with how often and where they stand, and which is the most frequent. */
import { grown } from "./pieces.ts";

export class Pairs {
  /** By number of the pair: its symbols, and how often it stands now. */
  left = new Int32Array(1 << 12);
  right = new Int32Array(1 << 12);
  counts = new Float64Array(1 << 12);
  #size = 0;
  /** Pairs from here on have not been offered to the heap. */
  #offered = 0;
  /** Number + 1 of a pair by its symbols; 0 is free. At most half full. */
  #slots = new Int32Array(1 << 14);

  // The places of a pair: a chain of links, in the order they were noted. Links of a taken chain are used again.
  #first = new Int32Array(1 << 12);
  #last = new Int32Array(1 << 12);
  #place = new Int32Array(1 << 14);
  #link = new Int32Array(1 << 14);
  #links = 1;
  #free = 0;

  /** The number of a pair, which is taken up if it is new. */
  add(left: number, right: number): number {
    const mask = this.#slots.length - 1;
    let at = hash(left, right) & mask;
    for (let n = this.#slots[at]!; n; n = this.#slots[at]!) {
      if (this.left[n - 1] === left && this.right[n - 1] === right) return n - 1;
      at = (at + 1) & mask;
    }
    if (this.#size === this.left.length) this.#grow();
    this.left[this.#size] = left;
    this.right[this.#size] = right;
    this.#slots[at] = ++this.#size;
    if (this.#size * 2 > this.#slots.length) this.#rehash();
    return this.#size - 1;
  }

  /** Notes that a pair stands at `place`, `count` times. */
  stands(pair: number, place: number, count: number): void {
    this.counts[pair]! += count;
    let link = this.#free;
    if (link) this.#free = this.#link[link]!;
    else {
      link = this.#links++;
      if (link === this.#link.length) {
        this.#link = grown(this.#link, link + 1);
        this.#place = grown(this.#place, link + 1);
      }
    }
    this.#place[link] = place;
    this.#link[link] = 0;
    if (this.#first[pair]) this.#link[this.#last[pair]!] = link;
    else this.#first[pair] = link;
    this.#last[pair] = link;
  }

  /** The places of a pair, which are forgotten. */
  take(pair: number): number[] {
    const places: number[] = [];
    for (let link = this.#first[pair]!; link; link = this.#link[link]!) places.push(this.#place[link]!);
    if (places.length) {
      this.#link[this.#last[pair]!] = this.#free;
      this.#free = this.#first[pair]!;
      this.#first[pair] = 0;
    }
    return places;
  }

  #grow(): void {
    this.left = grown(this.left, this.#size + 1);
    this.right = grown(this.right, this.#size + 1);
    this.counts = grown(this.counts, this.#size + 1);
    this.#first = grown(this.#first, this.#size + 1);
    this.#last = grown(this.#last, this.#size + 1);
  }

  #rehash(): void {
    this.#slots = new Int32Array(this.#slots.length * 2);
    const mask = this.#slots.length - 1;
    for (let pair = 0; pair < this.#size; pair++) {
      let at = hash(this.left[pair]!, this.right[pair]!) & mask;
      while (this.#slots[at]) at = (at + 1) & mask;
      this.#slots[at] = pair + 1;
    }
  }

  // The heap: pairs with the count they had when offered, the most frequent first, then the lower symbols. A count only
  // sinks after that: all places of a pair come to be while the younger of its two symbols is made.
  #heap = new Int32Array(1 << 12);
  #offers = new Float64Array(1 << 12);
  #end = 0;

  /** Offers the pairs taken up since the last call to the heap. */
  offerNew(): void {
    while (this.#heap.length < this.#end + this.#size - this.#offered) {
      this.#heap = grown(this.#heap, 0);
      this.#offers = grown(this.#offers, 0);
    }
    for (; this.#offered < this.#size; this.#offered++)
      this.#up(this.#end++, this.#offered, this.counts[this.#offered]!);
  }

  /** The most frequent pair, taken out of the heap; -1 when there is none. */
  best(): number {
    while (this.#end > 0) {
      const pair = this.#heap[0]!;
      const count = this.counts[pair]!;
      if (count === this.#offers[0]) {
        this.#end--;
        if (this.#end) this.#down(this.#heap[this.#end]!, this.#offers[this.#end]!);
        return pair;
      }
      this.#down(pair, count);
    }
    return -1;
  }

  #before(a: number, countA: number, b: number, countB: number): boolean {
    if (countA !== countB) return countA > countB;
    const left = this.left[a]! - this.left[b]!;
    return left ? left < 0 : this.right[a]! < this.right[b]!;
  }

  #up(i: number, pair: number, count: number): void {
    for (
      let up = (i - 1) >> 1;
      i > 0 && this.#before(pair, count, this.#heap[up]!, this.#offers[up]!);
      up = (i - 1) >> 1
    ) {
      this.#heap[i] = this.#heap[up]!;
      this.#offers[i] = this.#offers[up]!;
      i = up;
    }
    this.#heap[i] = pair;
    this.#offers[i] = count;
  }

  #down(pair: number, count: number): void {
    let i = 0;
    for (let down = 1; down < this.#end; down = 2 * i + 1) {
      const other = down + 1;
      if (
        other < this.#end &&
        this.#before(this.#heap[other]!, this.#offers[other]!, this.#heap[down]!, this.#offers[down]!)
      )
        down = other;
      if (!this.#before(this.#heap[down]!, this.#offers[down]!, pair, count)) break;
      this.#heap[i] = this.#heap[down]!;
      this.#offers[i] = this.#offers[down]!;
      i = down;
    }
    this.#heap[i] = pair;
    this.#offers[i] = count;
  }
}

const hash = (left: number, right: number): number => {
  const h = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
  return h ^ (h >>> 15);
};
