/** Kinds of tasks: what the user wants, what they tell and keep back, and by what the outcome is known. */
import { MassifError, nearest } from "../common/index.ts";
import { type Draw, draw } from "./draw.ts";
import { type Effect, effect } from "./effect.ts";
import type { Field } from "./entity.ts";
import { type Compiled, compile, predicate, type Scope } from "./expression.ts";
import type { TaskFile, WorldFile } from "./schema.ts";
import type { Path } from "./source.ts";
import type { Change } from "./state.ts";
import { type Template, template } from "./template.ts";
import { show, type Value } from "./value.ts";

export interface Wordings {
  train: Template[];
  heldout: Template[];
}

export interface Reveal {
  asked: readonly string[];
  ask: Template[];
  say: Wordings;
}

/** Where changes are allowed: a row (or one of its fields), new rows of an entity, or a whole entity. */
type Allowed = { row: Compiled; entity: string; field?: string } | { entity: string; only?: "new" };

export interface TaskType {
  name: string;
  weight: number;
  draws: [string, Draw][];
  where: Compiled | undefined;
  holdout: Compiled | undefined;
  given: Effect[];
  compute: Record<string, { value: Compiled; from: Compiled[] }>;
  say: Wordings;
  hidden: Record<string, Reveal>;
  acts: Record<string, Reveal & { tool: string; args: Record<string, Compiled> }>;
  uses: readonly string[];
  hides: readonly string[];
  require: Compiled[];
  allow: Allowed[];
  /** `of` names the computed fact that is told, where it is one. */
  tell: { value: Compiled; among?: Compiled; of?: string }[];
  evidence: Compiled[];
  calls: number | undefined;
  says: string | undefined;
  open: boolean;
  answer: Template[];
}

/** Whether the user of this task may be spoken with before the end. */
export const interactive = (task: TaskType): boolean =>
  Object.keys(task.hidden).length + Object.keys(task.acts).length > 0;

export function taskOf(
  file: TaskFile,
  world: WorldFile,
  outer: Scope,
  userParams: Record<string, Record<string, Field>>,
  path: Path,
): TaskType {
  let scope = outer;
  const draws: [string, Draw][] = [];
  for (const [name, source] of Object.entries(file.draw)) {
    const made = draw(source, name, world.banks, scope, [...path, "draw", name]);
    draws.push([name, made]);
    scope = scope.with({ [name]: made.type });
  }
  const compute: TaskType["compute"] = {};
  for (const [name, { value, from }] of Object.entries(file.compute)) {
    const at = [...path, "compute", name];
    compute[name] = {
      value: compile(value, scope, [...at, "value"]),
      from: from.map((f, i) => compile(f, scope, [...at, "from", i])),
    };
    scope = scope.with({ [name]: compute[name].value.type });
  }
  const say = wordings(file.say, scope, [...path, "say"]);
  checkSlots(say, file, scope, path);
  const reveal = (r: { asked: string[]; ask: string[]; say: TaskFile["say"] }, at: Path): Reveal => ({
    asked: r.asked,
    ask: r.ask.map((t, i) => template(t, scope, [...at, "ask", i])),
    say: wordings(r.say, scope, [...at, "say"]),
  });
  const hidden = Object.fromEntries(
    Object.entries(file.hidden).map(([fact, r]) => {
      const at = [...path, "hidden", fact];
      if (!scope.vars[fact]) scope.tell(at, `no drawn fact '${fact}' to hide`);
      const made = reveal(r, at);
      if (![...made.say.train, ...made.say.heldout].every((t) => t.slots.includes(fact)))
        scope.tell([...at, "say"], `every wording must tell {${fact}}`);
      for (const t of made.ask)
        if (t.slots.some((s) => s.split(".")[0] === fact)) scope.tell([...at, "ask"], `asks with the fact it asks for`);
      return [fact, made];
    }),
  );
  const acts = Object.fromEntries(
    Object.entries(file.acts).map(([name, r]) => {
      const at = [...path, "acts", name];
      const params = userParams[r.tool];
      if (!params) scope.tell([...at, "tool"], `no user tool '${r.tool}'`);
      const args = Object.entries(r.args).map(([a, source]) => [
        a,
        compile(source, scope, [...at, "args", a], params?.[a]?.type),
      ]);
      return [name, { ...reveal(r, at), tool: r.tool, args: Object.fromEntries(args) as Record<string, Compiled> }];
    }),
  );
  const { outcome } = file;
  const at = [...path, "outcome"];
  if (!outcome.allow.length && !outcome.evidence.length && !outcome.tell.length)
    scope.tell(
      at,
      "nothing may change and nothing is told: such a task needs 'evidence', or doing nothing would solve it",
    );
  if (outcome.says && !Object.hasOwn(world.speech, outcome.says))
    scope.tell([...at, "says"], `no speech '${outcome.says}'`);
  const names = world.tools.map((t) => t.name);
  for (const key of ["uses", "hides"] as const)
    for (const [i, tool] of file[key].entries())
      if (!names.includes(tool)) scope.tell([...path, key, i], `no tool '${tool}'`);
  return {
    name: file.task,
    weight: file.weight,
    draws,
    where: file.where === undefined ? undefined : predicate(file.where, scope, [...path, "where"]),
    holdout: file.holdout === undefined ? undefined : predicate(file.holdout, scope, [...path, "holdout"]),
    given: file.given.map((e, i) => effect(e, scope, [...path, "given", i])),
    compute,
    say,
    hidden,
    acts,
    uses: file.uses,
    hides: file.hides,
    require: outcome.require.map((e, i) => predicate(e, scope, [...at, "require", i])),
    allow: outcome.allow.map((a, i) => allowed(a, scope, [...at, "allow", i])),
    tell: outcome.tell.map((t, i) => tellOf(t, compute, scope, [...at, "tell", i])),
    evidence: outcome.evidence.map((e, i) => predicate(e, scope, [...at, "evidence", i])),
    calls: outcome.calls,
    says: outcome.says,
    open: outcome.open ?? false,
    answer: file.answer.map((t, i) => template(t, scope, [...path, "answer", i])),
  };
}

function wordings(file: TaskFile["say"], scope: Scope, path: Path): Wordings {
  const both = Array.isArray(file) ? { train: file, heldout: file } : file;
  const at = (split: string) => (Array.isArray(file) ? path : [...path, split]);
  return {
    train: both.train.map((t, i) => template(t, scope, [...at("train"), i])),
    heldout: both.heldout.map((t, i) => template(t, scope, [...at("heldout"), i])),
  };
}

/** All wordings tell the same facts, and none of the hidden ones. */
function checkSlots(say: Wordings, file: TaskFile, scope: Scope, path: Path): void {
  const all = [...say.train, ...say.heldout];
  const first = [...new Set(all[0]?.slots)].sort().join(", ");
  for (const { slots } of all) {
    const these = [...new Set(slots)].sort().join(", ");
    if (these !== first) scope.tell([...path, "say"], `one wording tells {${first}}, another {${these}}`);
    const leak = slots.find((s) => Object.hasOwn(file.hidden, s.split(".")[0] ?? ""));
    if (leak) scope.tell([...path, "say"], `{${leak}} is hidden, yet told at once`);
  }
}

function allowed(pattern: string, scope: Scope, path: Path): Allowed {
  if (!pattern.startsWith("$")) {
    const entity = pattern.replace(/^\+/, "");
    if (!scope.entities[entity]) {
      const like = nearest(entity, Object.keys(scope.entities));
      scope.tell(path, `no entity '${entity}'${like ? `; did you mean '${like}'?` : ""}`);
    }
    return pattern.startsWith("+") ? { entity, only: "new" } : { entity };
  }
  const parts = pattern.slice(1).split(".");
  const whole = compile(pattern, scope, path);
  if (whole.type.kind === "row" && parts.length === 1) return { row: whole, entity: whole.type.entity };
  const field = parts.pop() ?? "";
  const row = compile(`$${parts.join(".")}`, scope, path);
  if (row.type.kind === "row") return { row, entity: row.type.entity, field };
  if (row.type.kind !== "unknown") scope.tell(path, `allows a row or its field, found ${show(whole.type)}`);
  return { entity: "" };
}

/** Whether the task lets this change stand. `rows` are the values of the task's `allow` rows at the start. */
export function allows(task: TaskType, rows: readonly (Value | undefined)[], change: Change): boolean {
  return task.allow.some((a, i) => {
    if (a.entity !== change.entity) return false;
    if ("row" in a) return rows[i] === change.key && (!a.field || a.field === change.field);
    return !("only" in a) || a.only !== "new" || change.before === null;
  });
}

function tellOf(
  file: TaskFile["outcome"]["tell"][number],
  compute: object,
  scope: Scope,
  path: Path,
): TaskType["tell"][number] {
  const source = typeof file === "string" ? file : file.value;
  const value = compile(source, scope, typeof file === "string" ? path : [...path, "value"]);
  const of = typeof source === "string" && Object.hasOwn(compute, source.slice(1)) ? source.slice(1) : undefined;
  const among =
    typeof file !== "string" && file.among !== undefined ? compile(file.among, scope, [...path, "among"]) : undefined;
  if (value.type.kind === "record") throw new MassifError("world.invalid", { found: "a record cannot be told" });
  return { value, ...(among && { among }), ...(of && { of }) };
}
