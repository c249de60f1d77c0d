/** Sentences with slots: "Move {amount} from {x.name}." A slot is a variable and its fields. */
import { type Compiled, type Frame, type Scope, variable } from "./expression.ts";
import type { Path } from "./source.ts";
import { show, text } from "./value.ts";

export interface Template {
  cost: number;
  /** The slots, as written. */
  slots: readonly string[];
  run(frame: Frame): string;
  /** The value of each slot, in order. */
  values(frame: Frame): ReturnType<Compiled["run"]>[];
}

/** Compiles a sentence; unknown slots and slots that have no text (records) are told to the scope. */
export function template(words: string, scope: Scope, path: Path): Template {
  const parts = words.split(/\{([^{}]*)\}/);
  const slots = parts.filter((_, i) => i % 2);
  if (/[{}]/.test(parts.filter((_, i) => i % 2 === 0).join(""))) scope.tell(path, "a brace without its partner");
  const values = slots.map((slot) => {
    const value = variable(slot, scope, path);
    if (value.type.kind === "record") scope.tell(path, `{${slot}} is ${show(value.type)}, which no sentence can hold`);
    return value;
  });
  return {
    cost: values.reduce((sum, v) => sum + v.cost, 1),
    slots,
    run: (frame) => parts.map((p, i) => (i % 2 ? text(values[(i - 1) / 2]?.run(frame) ?? null) : p)).join(""),
    values: (frame) => values.map((v) => v.run(frame)),
  };
}
