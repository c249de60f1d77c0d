/** JSON exactly as Python's `json.dumps(value, ensure_ascii=False)` writes it: the K2 templates were rendered by Python,
 *  and a prompt must be the same to the byte. JavaScript cannot tell 1.0 from 1, and puts integer-like keys first. */
export interface PythonJson {
  /** Between items and after keys: `", "` and `": "` in Python by default. */
  separators?: readonly [item: string, key: string];
  /** Keys sorted by code point, at every depth; lists keep their order. */
  sortKeys?: boolean;
}

/** `value` as JSON text; `undefined` in an object is left out, as by JSON.stringify. */
export function pythonJson(value: unknown, { separators = [", ", ": "], sortKeys = false }: PythonJson = {}): string {
  const [item, colon] = separators;
  const write = (value: unknown): string => {
    if (typeof value === "number") return pythonNumber(value);
    if (Array.isArray(value)) return `[${value.map(write).join(item)}]`;
    if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
    const entries = Object.entries(value).filter(([, field]) => field !== undefined);
    if (sortKeys) entries.sort(([a], [b]) => byCodePoint(a, b));
    return `{${entries.map(([key, field]) => JSON.stringify(key) + colon + write(field)).join(item)}}`;
  };
  return write(value);
}

/** Python's repr of a number: whole numbers in full, and exponents from 1e-05 down with two digits. */
export function pythonNumber(value: number): string {
  if (Number.isSafeInteger(value)) return String(value);
  if (Number.isInteger(value)) return BigInt(value).toString();
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
  if (Math.abs(value) >= 1e-4) return String(value);
  return value.toExponential().replace(/e-(\d)$/, "e-0$1");
}

/** Order by code point (Python's), where `<` goes by UTF-16 unit: surrogates stand for what comes after all others. */
export function byCodePoint(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)];
    if (x !== y) return rank(x) - rank(y);
  }
  return a.length - b.length;
}

const rank = (unit: number): number => (unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit);
