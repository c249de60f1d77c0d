/** JSON numbers within bounds, as regular languages over their digits.
 *
 *  Integers are written without fraction or exponent, at most 18 digits. Numbers without bounds may have both; within
 *  bounds they are plain decimals. Digits are capped so that reading a number as a double keeps it within its bounds:
 *  rounding is monotone, so only an exclusive bound could be reached, and 15 significant digits rule that out. */
import {
  alt,
  cat,
  compile,
  type Dfa,
  empty,
  intersect,
  literal,
  nothing,
  optional,
  type Re,
  range,
  repeat,
} from "./dfa.ts";

export interface Bounds {
  /** Inclusive unless `above`. */
  min?: number;
  max?: number;
  above?: boolean;
  below?: boolean;
}

const MAX_DIGITS = 18;
const LARGEST = 10n ** BigInt(MAX_DIGITS) - 1n;
const digit = range(0x30, 0x39);
const digits = (lo: number, hi: number): Re => (lo > hi ? nothing : range(0x30 + lo, 0x30 + hi));

/** Any JSON number whose double is finite. */
const anyNumber: Re = cat(
  optional(literal("-")),
  alt(literal("0"), cat(range(0x31, 0x39), repeat(digit, 0, MAX_DIGITS - 1))),
  optional(cat(literal("."), repeat(digit, 1, 20))),
  // 18 digits and e+289 stay below 1.8e308.
  optional(cat(alt(literal("e"), literal("E")), optional(alt(literal("+"), literal("-"))), exponent())),
);

function exponent(): Re {
  return alt(cat(range(0x30, 0x31), digit, digit), cat(literal("2"), range(0x30, 0x38), digit), repeat(digit, 1, 2));
}

/** Integers `n` with lo ≤ n ≤ hi. */
function integers(lo: bigint, hi: bigint): Re {
  const negative = lo < 0n ? magnitudes(hi < -1n ? -hi : 1n, -lo < LARGEST ? -lo : LARGEST) : nothing;
  const positive = hi >= 0n ? magnitudes(lo > 0n ? lo : 0n, hi < LARGEST ? hi : LARGEST) : nothing;
  return alt(positive, cat(literal("-"), negative));
}

/** Whole numbers within bounds, as JSON Schema's `integer` (and `multipleOf` a whole number) asks. */
export function integerDfa({ min, max, above, below }: Bounds, multipleOf = 1): Dfa {
  const lo = min === undefined ? -LARGEST : whole(Math.ceil(min)) + (above && Number.isInteger(min) ? 1n : 0n);
  const hi = max === undefined ? LARGEST : whole(Math.floor(max)) - (below && Number.isInteger(max) ? 1n : 0n);
  const all = min === undefined && max === undefined ? unboundedInteger : compile(integers(lo, hi));
  return multipleOf === 1 ? all : intersect(all, multiples(multipleOf));
}

/** Numbers within bounds. */
export function numberDfa(bounds: Bounds): Dfa {
  const { min, max, above = false, below = false } = bounds;
  if (min === undefined && max === undefined) return unboundedNumber;
  const lo = min === undefined ? undefined : decimal(min);
  const hi = max === undefined ? undefined : decimal(max);
  const whole = Math.max(lo?.whole.toString().length ?? 1, hi?.whole.toString().length ?? 1);
  const places = Math.max(1, 15 - whole, lo?.fraction.length ?? 0, hi?.fraction.length ?? 0);
  const zero: Decimal = { negative: false, whole: 0n, fraction: "" };
  // The positive half is [max(lo, 0), hi]; the negative half mirrors [max(−hi, 0), −lo]. “-0” says nothing that “0” does not.
  const positive = hi?.negative
    ? nothing
    : decimals(lo && !lo.negative ? lo : zero, hi, !!lo && !lo.negative && above, below, places);
  const negative =
    lo && !lo.negative ? nothing : decimals(hi?.negative ? hi : zero, lo, hi?.negative ? below : true, above, places);
  return compile(alt(positive, cat(literal("-"), negative)));
}

interface Decimal {
  negative: boolean;
  whole: bigint;
  /** Digits after the point, without trailing zeros. */
  fraction: string;
}

const whole = (x: number): bigint => (Math.abs(x) >= 1e21 ? BigInt(Math.sign(x)) * (LARGEST + 1n) : BigInt(x));

/** The exact decimal that `JSON.stringify` writes for a double. */
function decimal(x: number): Decimal {
  const [, sign, head, tail = "", exp = "0"] = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(x))!;
  const shift = Number(exp);
  const all = head! + tail;
  const point = head!.length + shift;
  const padded = point < 1 ? "0".repeat(1 - point) + all : all.padEnd(point, "0");
  const at = Math.max(point, 1);
  return {
    negative: sign === "-" && x !== 0,
    whole: BigInt(padded.slice(0, at)),
    fraction: padded.slice(at).replace(/0+$/, ""),
  };
}

/** Whole magnitudes in [lo, hi], without leading zeros. */
function magnitudes(lo: bigint, hi: bigint): Re {
  const parts: Re[] = [];
  for (let n = String(lo).length; n <= String(hi).length; n++) {
    const least = n === 1 ? 0n : 10n ** BigInt(n - 1);
    const most = 10n ** BigInt(n) - 1n;
    const from = lo > least ? lo : least;
    const to = hi < most ? hi : most;
    if (from <= to) parts.push(between(String(from), String(to)));
  }
  return alt(...parts);
}

/** Digit strings of one length between `lo` and `hi`. */
function between(lo: string, hi: string): Re {
  if (!lo) return empty;
  const [a, b] = [Number(lo[0]), Number(hi[0])];
  const rest = lo.length - 1;
  if (/^0+$/.test(lo) && /^9+$/.test(hi)) return repeat(digit, rest + 1, rest + 1);
  if (a === b) return cat(digits(a, a), between(lo.slice(1), hi.slice(1)));
  return alt(
    cat(digits(a, a), between(lo.slice(1), "9".repeat(rest))),
    cat(digits(a + 1, b - 1), repeat(digit, rest, rest)),
    cat(digits(b, b), between("0".repeat(rest), hi.slice(1))),
  );
}

/** Magnitudes between two decimals; `strictLo`, `strictHi` leave out the bound itself. No `hi`: up to 15 digits. */
function decimals(lo: Decimal, hi: Decimal | undefined, strictLo: boolean, strictHi: boolean, places: number): Re {
  const top = hi ? hi.whole : 10n ** 15n - 1n;
  const free = fraction({ places });
  if (lo.whole > top) return nothing;
  const low = { digits: lo.fraction, strict: strictLo };
  const high = hi && { digits: hi.fraction, strict: strictHi };
  if (lo.whole === top) return cat(magnitudes(top, top), fraction({ places, low, high }));
  return alt(
    cat(magnitudes(lo.whole, lo.whole), fraction({ places, low })),
    lo.whole + 1n <= top - 1n ? cat(magnitudes(lo.whole + 1n, top - 1n), free) : nothing,
    cat(magnitudes(top, top), fraction({ places, high })),
  );
}

interface Edge {
  digits: string;
  strict: boolean;
}

/** An optional fraction of at most `places` digits that, read as 0.…, lies between `low` and `high`. */
function fraction({ places, low, high }: { places: number; low?: Edge; high?: Edge }): Re {
  /** Digits after position `i`, while the digits so far equal those of the bounds still given. */
  const tail = (i: number, low: Edge | undefined, high: Edge | undefined): { stop: boolean; more: Re } => {
    const lowDone = !low || /^0*$/.test(low.digits.slice(i));
    const highOpen = !high || /[1-9]/.test(high.digits.slice(i));
    const stop = lowDone && !low?.strict && (highOpen || !high?.strict);
    if (i >= places) return { stop, more: nothing };
    if (!low && !high) return { stop, more: repeat(digit, 1, places - i) };
    const a = low ? Number(low.digits[i] ?? 0) : 0;
    const b = high ? Number(high.digits[i] ?? 0) : 9;
    const parts: Re[] = [];
    const step = (from: number, to: number, l: Edge | undefined, h: Edge | undefined) => {
      if (from > to) return;
      const rest = tail(i + 1, l, h);
      if (rest.stop) parts.push(digits(from, to));
      parts.push(cat(digits(from, to), rest.more));
    };
    if (low && high && a === b) step(a, a, low, high);
    else {
      if (low) step(a, a, low, undefined);
      if (high) step(b, b, undefined, high);
      step(low ? a + 1 : 0, high ? b - 1 : 9, undefined, undefined);
    }
    return { stop, more: alt(...parts) };
  };
  const { stop, more } = tail(0, low, high);
  const written = cat(literal("."), more);
  return stop ? optional(written) : written;
}

/** Integers divisible by `n`, in any form: one state a remainder, after the start and the state behind “-”. */
function multiples(n: number): Dfa {
  const classOf = new Uint8Array(256);
  classOf[0x2d] = 1;
  for (let d = 0; d < 10; d++) classOf[0x30 + d] = 2 + d;
  const classes = 12;
  const size = n + 2;
  const next = new Int32Array(size * classes).fill(-1);
  next[1] = 1;
  for (let d = 0; d < 10; d++) {
    next[2 + d] = next[classes + 2 + d] = 2 + (d % n);
    for (let r = 0; r < n; r++) next[(2 + r) * classes + 2 + d] = 2 + ((r * 10 + d) % n);
  }
  const accepts = new Uint8Array(size);
  accepts[2] = 1;
  return { size, classOf, classes, next, accepts, distance: new Int32Array(size), toward: new Int16Array(size) };
}

/** Any number, and any whole one. */
export const unboundedNumber: Dfa = { ...compile(anyNumber), name: "number" };
export const unboundedInteger: Dfa = { ...compile(integers(-LARGEST, LARGEST)), name: "integer" };
