/** A world: a file, compiled. Compiling proves that every name, type and bound is right, or says at which line it is not. */
import { readFileSync } from "node:fs";
import { MassifError, nearest } from "../common/index.ts";
import { type Drawing, populating } from "./draw.ts";
import { breach, type Entity, entitiesOf, invariantsOf } from "./entity.ts";
import { type Compiled, compile, type Frame, predicate, Scope } from "./expression.ts";
import { type WorldFile, worldSchema } from "./schema.ts";
import { type Issue, type Path, Source } from "./source.ts";
import { digest, type State } from "./state.ts";
import { type TaskType, taskOf } from "./task.ts";
import { paramsOf, type Tool, toolOf } from "./tool.ts";
import { INTEGER } from "./value.ts";

export interface Rule {
  id: string;
  say: string;
  confirm: boolean;
  /** By tool: the call is forbidden where this holds. */
  forbids: Record<string, Compiled | undefined>;
}

export interface World {
  name: string;
  version: number;
  /** SHA-256 of the canonical file: two worlds with one digest are one world. */
  digest: string;
  file: WorldFile;
  entities: Record<string, Entity>;
  logs: ReadonlySet<string>;
  tools: Record<string, Tool>;
  userTools: Record<string, Tool>;
  rules: Rule[];
  tasks: TaskType[];
  populate: (frame: Frame, drawing: Drawing) => Frame;
  /** Tools that some rule or evidence asks to have been called. */
  calledFor: ReadonlySet<string>;
  /** What is wrong with a state, or undefined; `trusted` is one known to be right. */
  check(frame: Frame, trusted?: State): string | undefined;
}

/** Reads and compiles a world file. @throws MassifError `world.file`, `world.json`, `world.invalid` (with lines). */
export function readWorld(path: string): World {
  let json: string;
  try {
    json = readFileSync(path, "utf8");
  } catch (cause) {
    throw new MassifError("world.file", {
      found: `${path} cannot be read`,
      fix: "give the path of a world's JSON file",
      cause,
    });
  }
  return compileWorld(new Source(path, json));
}

/** @throws MassifError `world.invalid` that names every problem with its line. */
export function compileWorld(source: Source): World {
  const file = source.parse(worldSchema);
  const issues: Issue[] = [];
  const tell = (path: Path, message: string): void => {
    issues.push(source.issue(path, message));
  };
  const entities = entitiesOf(file, tell);
  const params = Object.fromEntries(file.tools.map((t) => [t.name, paramsOf(t)]));
  const userParams = Object.fromEntries(file.user_tools.map((t) => [t.name, paramsOf(t)]));
  const types = Object.fromEntries(
    Object.entries({ ...params, ...userParams }).map(([t, p]) => [
      t,
      Object.fromEntries(Object.entries(p).map(([n, f]) => [n, f.type])),
    ]),
  );
  const scope = new Scope(entities, types, tell, { now: INTEGER });
  invariantsOf(file, entities, scope);
  const global = file.invariants.map((invariant, i) => {
    const at = ["invariants", i];
    if ("holds" in invariant) return { say: invariant.say, holds: predicate(invariant.holds, scope, [...at, "holds"]) };
    return { say: invariant.say, conserved: compile(invariant.conserved, scope, [...at, "conserved"]) };
  });
  once(
    file.tools.concat(file.user_tools).map((t) => t.name),
    (i) => tell(["tools", i, "name"], "two tools have this name"),
  );
  once(
    file.tasks.map((t) => t.task),
    (i) => tell(["tasks", i, "task"], "two tasks have this name"),
  );
  const tools = Object.fromEntries(file.tools.map((t, i) => [t.name, toolOf(t, scope, ["tools", i])]));
  const userTools = Object.fromEntries(file.user_tools.map((t, i) => [t.name, toolOf(t, scope, ["user_tools", i])]));
  const rules = file.rules.map((rule, i): Rule => {
    if (rule.forbids === undefined && !rule.confirm)
      tell(["rules", i], "a rule forbids a call or demands a confirmation");
    const forbids = rule.calls.map((name, j) => {
      const known = types[name];
      const like = known ? undefined : nearest(name, Object.keys(types));
      if (!known) tell(["rules", i, "calls", j], `no tool '${name}'${like ? `; did you mean '${like}'?` : ""}`);
      if (rule.forbids === undefined || !known) return [name, undefined] as const;
      return [name, predicate(rule.forbids, scope.with(known), ["rules", i, "forbids"])] as const;
    });
    return { id: rule.id, say: rule.say, confirm: rule.confirm ?? false, forbids: Object.fromEntries(forbids) };
  });
  const renew = file.faults?.renew;
  if (renew && !tools[renew]) tell(["faults", "renew"], `no tool '${renew}'`);
  if (file.faults?.kinds.includes("permission") && !renew)
    tell(["faults"], "a permission that can be lost needs 'renew', the tool that gives it back");
  const tasks = file.tasks.map((t, i) => taskOf(t, file, scope, userParams, ["tasks", i]));
  const populate = populating(file, scope);
  if (issues.length) source.refuse(issues);
  return {
    name: file.world,
    version: file.version,
    digest: digest(source.data),
    file,
    entities,
    logs: new Set(Object.values(entities).flatMap((e) => (e.log ? [e.name] : []))),
    tools,
    userTools,
    rules,
    tasks,
    populate,
    calledFor: calledIn([file.rules, file.tasks.map((t) => t.outcome)]),
    check: (frame, trusted) => breach(entities, global, frame, trusted),
  };
}

function once(names: readonly string[], tell: (index: number) => void): void {
  for (const [i, name] of names.entries()) if (names.indexOf(name) < i) tell(i);
}

function calledIn(part: unknown, found = new Set<string>()): Set<string> {
  if (Array.isArray(part) && part[0] === "called" && typeof part[1] === "string") found.add(part[1]);
  if (part && typeof part === "object") for (const inner of Object.values(part)) calledIn(inner, found);
  return found;
}
