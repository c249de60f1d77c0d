/** Tools: what the model is shown, which calls are valid, and what a call does. Arguments are never coerced. */
import type { ToolSpec } from "../chat/index.ts";
import { apply, type Effect, effect } from "./effect.ts";
import { type Field, fieldOf, wrong } from "./entity.ts";
import { type Compiled, compile, type Frame, predicate, type Scope } from "./expression.ts";
import type { ToolFile } from "./schema.ts";
import type { Path } from "./source.ts";
import { rowOf, type State } from "./state.ts";
import { type Template, template } from "./template.ts";
import { INTEGER, maybe, type Type, type Value } from "./value.ts";

export type Args = Record<string, Value>;

export interface Tool {
  name: string;
  spec: ToolSpec;
  params: Record<string, Field>;
  /** The call may change the state, logs aside. */
  writes: boolean;
  requires: { error: string; holds: Compiled; say?: Template }[];
  effects: Effect[];
  result: Compiled | undefined;
  pages: { of: Compiled; as: string; item: Compiled; size: number } | undefined;
}

/** The parameter by which a paged tool is asked to go on. */
export const PAGE = "next";

export const paramsOf = (file: ToolFile): Record<string, Field> => {
  const params = Object.fromEntries(Object.entries(file.params).map(([name, p]) => [name, fieldOf(p)]));
  const page: Field = { type: maybe(INTEGER), min: 0, max: Number.MAX_SAFE_INTEGER };
  return file.pages ? { ...params, [PAGE]: page } : params;
};

export function toolOf(file: ToolFile, outer: Scope, path: Path): Tool {
  const params = paramsOf(file);
  for (const [name, { ref }] of Object.entries(params))
    if (ref && !outer.entities[ref]) outer.tell([...path, "params", name, "ref"], `no entity '${ref}'`);
  const scope = outer.with(Object.fromEntries(Object.entries(params).map(([name, { type }]) => [name, type])));
  const { pages } = file;
  let paging: Tool["pages"];
  if (pages) {
    const of = compile(pages.of, scope, [...path, "pages", "of"]);
    const type: Type = of.type.kind === "list" ? of.type.of : { kind: "unknown" };
    if (of.type.kind !== "list" && of.type.kind !== "unknown") scope.tell([...path, "pages", "of"], "expected a list");
    const item = compile(pages.item, scope.with({ [pages.as]: type }), [...path, "pages", "item"]);
    paging = { of, as: pages.as, item, size: pages.size };
    if (file.result !== undefined) scope.tell([...path, "result"], "a paged tool has its pages for a result");
  }
  return {
    name: file.name,
    spec: specOf(file, params),
    params,
    writes: file.effects.some((e) => !("insert" in e) || !outer.entities[e.insert]?.log),
    requires: file.requires.map(({ error, holds, say }, i) => {
      const at = [...path, "requires", i];
      const rule = { error, holds: predicate(holds, scope, [...at, "holds"]) };
      return say === undefined ? rule : { ...rule, say: template(say, scope, [...at, "say"]) };
    }),
    effects: file.effects.map((e, i) => effect(e, scope, [...path, "effects", i])),
    result: file.result === undefined ? undefined : compile(file.result, scope, [...path, "result"]),
    pages: paging,
  };
}

function specOf(file: ToolFile, params: Record<string, Field>): ToolSpec {
  const properties = Object.entries(params).map(([name, field]) => {
    const type = field.type.kind === "maybe" ? field.type.of : field.type;
    const doc = file.params[name]?.doc;
    const bounds = {
      ...(field.min > Number.MIN_SAFE_INTEGER && { minimum: field.min }),
      ...(field.max < Number.MAX_SAFE_INTEGER && { maximum: field.max }),
    };
    return [
      name,
      {
        type: type.kind === "row" ? "string" : type.kind,
        ...(doc && { description: doc }),
        ...(field.enum && { enum: field.enum }),
        ...bounds,
      },
    ];
  });
  const required = Object.keys(params).filter((name) => params[name]?.type.kind !== "maybe");
  const parameters = { type: "object", properties: Object.fromEntries(properties), required };
  return { type: "function", function: { name: file.name, description: file.doc, parameters } };
}

/** The arguments of a call, or why they are refused. A name that no row has is for `call` to answer. */
export function readArgs(tool: Tool, source: unknown): { args: Args } | { why: string } {
  if (typeof source !== "object" || source === null || Array.isArray(source))
    return { why: "arguments must be an object" };
  const given = source as Record<string, Value>;
  for (const name of Object.keys(given))
    if (!Object.hasOwn(tool.params, name)) return { why: `unknown argument ${name}` };
  const args: Args = {};
  for (const [name, field] of Object.entries(tool.params)) {
    const value = Object.hasOwn(given, name) ? given[name] : undefined;
    const type = field.type.kind === "maybe" ? field.type.of : field.type;
    if (value === undefined) {
      if (field.type.kind !== "maybe") return { why: `missing argument ${name}` };
      args[name] = null;
      continue;
    }
    const why = wrong(value, field, {}, type.kind === "row" ? { kind: "string" } : type);
    if (why) return { why: `${name} ${why}` };
    args[name] = value;
  }
  return { args };
}

export interface Answer {
  state: State;
  result: Value;
  ok: boolean;
}

/** Carries out a call whose arguments were read. `check` says what is wrong with the state it would lead to. */
export function call(tool: Tool, args: Args, frame: Frame, check: (state: State) => string | undefined): Answer {
  const { state } = frame;
  const fail = (error: string, message?: string): Answer => ({
    state,
    ok: false,
    result: message ? { error, message } : { error },
  });
  for (const [name, { ref }] of Object.entries(tool.params)) {
    const value = args[name] ?? null;
    if (ref && value !== null && !rowOf(state, ref, value)) return fail(`unknown_${ref}`);
  }
  const here: Frame = { ...frame, vars: { ...args } };
  for (const { error, holds, say } of tool.requires) if (holds.run(here) !== true) return fail(error, say?.run(here));
  const after = tool.effects.length ? apply(tool.effects, here) : state;
  const why = after === state ? undefined : check(after);
  if (why) return fail("not_allowed", why);
  return { state: after, ok: true, result: resultOf(tool, { ...here, state: after }, args) };
}

function resultOf(tool: Tool, frame: Frame, args: Args): Value {
  const { pages } = tool;
  if (!pages) return tool.result ? tool.result.run(frame) : { ok: true };
  const all = pages.of.run(frame) as Value[];
  const from = (args[PAGE] as number | null) ?? 0;
  const items = all.slice(from, from + pages.size).map((item) => {
    frame.vars[pages.as] = item;
    return pages.item.run(frame);
  });
  return from + pages.size < all.length ? { items, next: from + pages.size } : { items };
}
