/** Exact arithmetic for the 24 game: a parser of + - * / and brackets over fractions, and a solver. */

export interface Fraction {
  n: number;
  /** Positive. */
  d: number;
}

const make = (n: number, d: number): Fraction | undefined =>
  d === 0 ? undefined : d < 0 ? { n: -n, d: -d } : { n, d };
const apply = (op: string, a: Fraction, b: Fraction): Fraction | undefined => {
  if (op === "+") return make(a.n * b.d + b.n * a.d, a.d * b.d);
  if (op === "-") return make(a.n * b.d - b.n * a.d, a.d * b.d);
  return op === "*" ? make(a.n * b.n, a.d * b.d) : make(a.n * b.d, a.d * b.n);
};

/** The value of an expression and the numbers it uses, or why it has none. Never throws; 200 characters at most. */
export function evaluate(text: string): { value: Fraction; used: number[] } | string {
  if (text.length > 200) return "too long for an expression";
  const tokens =
    text
      .replace(/[×x]/g, "*")
      .replace(/÷/g, "/")
      .match(/\d+|[-+*/()]|\S/g) ?? [];
  const used: number[] = [];
  let at = 0;
  const factor = (): Fraction | undefined => {
    const token = tokens[at++];
    if (token === "(") {
      const inner = sum();
      return tokens[at++] === ")" ? inner : undefined;
    }
    if (token === undefined || !/^\d+$/.test(token)) return undefined;
    used.push(Number(token));
    return { n: Number(token), d: 1 };
  };
  const chain = (next: () => Fraction | undefined, ops: string) => (): Fraction | undefined => {
    let left = next();
    while (left && ops.includes(tokens[at] ?? " ")) {
      const op = tokens[at++] ?? "";
      const right = next();
      left = right && apply(op, left, right);
    }
    return left;
  };
  const product = chain(factor, "*/");
  const sum = chain(product, "+-");
  const value = sum();
  return value && at === tokens.length ? { value, used } : "not an expression of numbers, + - * / and brackets";
}

/** An expression that makes 24 from all the numbers, or undefined. */
export function solve24(numbers: readonly number[]): string | undefined {
  const search = (items: readonly { text: string; value: Fraction }[]): string | undefined => {
    const [first] = items;
    if (items.length === 1 && first) return first.value.n === 24 * first.value.d ? first.text : undefined;
    for (const [i, a] of items.entries())
      for (const [j, b] of items.entries()) {
        if (i === j) continue;
        const rest = items.filter((_, k) => k !== i && k !== j);
        for (const op of "+-*/") {
          if (i > j && (op === "+" || op === "*")) continue;
          const value = apply(op, a.value, b.value);
          const found = value && search([{ text: `(${a.text}${op}${b.text})`, value }, ...rest]);
          if (found) return found;
        }
      }
    return undefined;
  };
  return search(numbers.map((n) => ({ text: String(n), value: { n, d: 1 } })))?.replace(/^\((.*)\)$/s, "$1");
}
