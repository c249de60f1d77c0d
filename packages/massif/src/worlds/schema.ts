/**
 * The world file: what a world is, as data. JSON under a strict schema; expressions are held to types by compile.ts.
 * docs/worlds.md tells the same as prose, with an example.
 */
import { z } from "zod";

const name = z
  .string()
  .regex(/^[a-z][a-z0-9_]*$/, "a name is lower case letters, digits and _, starting with a letter");
const argument = z
  .string()
  .regex(/^[a-z][a-zA-Z0-9_]*$/, "a name is letters, digits and _, starting with a lower case letter");
const expression = z.unknown();
const sentences = z.array(z.string().min(1)).min(1);
/** Wordings to learn from, and others to be asked with. A plain list serves both. */
const wordings = z.union([sentences, z.strictObject({ train: sentences, heldout: sentences })]);

const field = z.union([
  z.enum(["string", "integer", "boolean"]),
  z.strictObject({
    type: z.enum(["string", "integer", "boolean"]).optional(),
    /** A row of this entity; its key is stored. */
    ref: name.optional(),
    enum: sentences.optional(),
    min: z.int().optional(),
    max: z.int().optional(),
    optional: z.boolean().optional(),
    /** Holds up to so many of them. */
    list: z.int().min(1).max(64).optional(),
  }),
]);

const param = z.strictObject({
  type: z.enum(["string", "integer", "boolean"]).optional(),
  /** The key of a row; a call that names none is answered with `unknown_<entity>`. */
  ref: name.optional(),
  enum: sentences.optional(),
  min: z.int().optional(),
  max: z.int().optional(),
  optional: z.boolean().optional(),
  doc: z.string().optional(),
});

/** How a value is drawn from the seed. Exactly one of the keys that say where from. */
const draw = z.union([
  z.strictObject({ bank: name, unique: z.boolean().optional() }),
  z.strictObject({ int: z.tuple([expression, expression]), step: z.int().min(1).optional() }),
  z.strictObject({ row: name, where: expression.optional() }),
  z.strictObject({ rows: name, count: z.tuple([z.int().min(0), z.int().max(64)]), where: expression.optional() }),
  z.strictObject({ pick: expression }),
  z.strictObject({ chance: z.int().min(0).max(100) }),
  z.strictObject({ id: z.string().min(1).max(8) }),
  z.strictObject({ value: expression }),
]);

const invariant = z.union([
  z.strictObject({ say: z.string(), holds: expression }),
  /** The value of the expression never changes. */
  z.strictObject({ say: z.string(), conserved: expression }),
]);

const entity = z.strictObject({
  key: argument,
  fields: z.record(argument, field),
  /** Rows at most; it bounds what quantifiers cost. */
  max: z.int().min(1).max(512).default(32),
  /** A log is outside the state's hash and free to grow. */
  log: z.boolean().optional(),
  /** Of each row, as `$row`. */
  invariants: z.array(z.strictObject({ say: z.string(), holds: expression })).default([]),
});

const populate = z.strictObject({
  entity: name,
  /** One lot for each row of this entity, bound to the name in `as`. */
  each: name.optional(),
  as: argument.optional(),
  count: z.union([z.int().min(0).max(512), z.tuple([z.int().min(0), z.int().max(512)])]).default(1),
  fields: z.record(argument, draw),
});

const when = { when: expression.optional(), each: z.tuple([argument, expression]).optional() };
const effect = z.union([
  z.strictObject({ set: z.string().startsWith("$"), to: expression, ...when }),
  z.strictObject({ insert: name, row: z.record(argument, expression), ...when }),
  z.strictObject({ delete: z.string().startsWith("$"), ...when }),
]);

const tool = z.strictObject({
  name: argument,
  doc: z.string(),
  params: z.record(argument, param).default({}),
  /** Each must hold, or the call is answered with its error; the first that fails is told. */
  requires: z.array(z.strictObject({ error: name, holds: expression, say: z.string().optional() })).default([]),
  /** All are computed from the state before the call, then applied in order. */
  effects: z.array(effect).default([]),
  result: expression.optional(),
  /** A list given page by page: asked to go on by the `next` of the last page. */
  pages: z.strictObject({ of: expression, as: argument, item: expression, size: z.int().min(1).max(50) }).optional(),
});

const rule = z.strictObject({
  id: name,
  /** The sentence the agent is shown. */
  say: z.string(),
  calls: z.array(argument).min(1),
  /** The call is forbidden where this holds. */
  forbids: expression.optional(),
  /** The call is forbidden unless the user said yes to a question that names all its arguments. */
  confirm: z.boolean().optional(),
});

/** How a reply is known for what it says: one of `any`, none of `none`. */
const speech = z.strictObject({ any: sentences, none: z.array(z.string()).default([]) });

const reveal = {
  /** Words by which a question asks for it. */
  asked: sentences,
  /** How a good agent asks. */
  ask: sentences,
  say: wordings,
};

const task = z.strictObject({
  task: name,
  weight: z.int().min(1).default(1),
  draw: z.record(argument, draw).default({}),
  /** Drawn again until it holds. */
  where: expression.optional(),
  /** True for the draws kept for held-out evaluation, such as pairs of numbers. */
  holdout: expression.optional(),
  given: z.array(effect).default([]),
  /** Values an agent can work out once it knows those in `from`. */
  compute: z.record(argument, z.strictObject({ value: expression, from: z.array(expression) })).default({}),
  say: wordings,
  /** Facts the user tells only when asked. */
  hidden: z.record(argument, z.strictObject(reveal)).default({}),
  /** What the user does with tools of their own when asked. */
  acts: z
    .record(argument, z.strictObject({ ...reveal, tool: argument, args: z.record(argument, expression) }))
    .default({}),
  /** Tools that are always shown, and tools that never are (worlds that show a choice). */
  uses: z.array(argument).default([]),
  hides: z.array(argument).default([]),
  outcome: z.strictObject({
    require: z.array(expression).default([]),
    /** `$x.field`, `$x` (the whole row), `+entity` (new rows), `entity` (anything in it). */
    allow: z.array(z.string()).default([]),
    tell: z
      .array(z.union([z.string(), z.strictObject({ value: expression, among: expression.optional() })]))
      .default([]),
    evidence: z.array(expression).default([]),
    /** Calls at most, errors and repeats after faults not counted. */
    calls: z.int().min(0).optional(),
    says: name.optional(),
    /** Several end states are right (any free room will do). */
    open: z.boolean().optional(),
  }),
  /** What an oracle answers at the end. */
  answer: sentences,
});

const faultKind = z.enum(["transient", "timeout", "stale", "partial", "duplicate", "permission"]);

export const worldSchema = z.strictObject({
  world: z.string().regex(/^[a-z][a-z0-9-]*$/, "a world's name is lower case letters, digits and -"),
  version: z.int().min(1),
  doc: z.string(),
  /** Opens the system message; the sentences of the rules follow. */
  system: z.string(),
  banks: z.record(name, z.union([sentences, z.strictObject({ train: sentences, heldout: sentences })])).default({}),
  clock: z.strictObject({ start: z.int(), step: z.int().min(0) }).default({ start: 0, step: 1 }),
  entities: z.record(name, entity),
  invariants: z.array(invariant).default([]),
  populate: z.array(populate).default([]),
  tools: z.array(tool).min(1),
  user_tools: z.array(tool).default([]),
  rules: z.array(rule).default([]),
  /** `done` and `refused` are used by every world; others by name. */
  speech: z.record(name, speech).default({}),
  /** Tools shown in an episode, at least and at most; all where absent. */
  shown: z.tuple([z.int().min(1), z.int()]).optional(),
  faults: z
    .strictObject({
      /** Of episodes, in percent. */
      chance: z.int().min(0).max(100),
      kinds: z.array(faultKind).min(1),
      most: z.int().min(1).max(5).default(1),
      /** The tool that gives a lost permission back. */
      renew: argument.optional(),
    })
    .optional(),
  limits: z
    .strictObject({
      turns: z.int().min(1).max(100).default(12),
      errors: z.int().min(0).default(2),
      patience: z.int().min(0).default(3),
    })
    .default({ turns: 12, errors: 2, patience: 3 }),
  tasks: z.array(task).min(1),
});

export type WorldFile = z.infer<typeof worldSchema>;
export type DrawFile = z.infer<typeof draw>;
export type EffectFile = z.infer<typeof effect>;
export type ToolFile = z.infer<typeof tool>;
export type TaskFile = z.infer<typeof task>;
export type FieldFile = z.infer<typeof field>;
export type FaultKind = z.infer<typeof faultKind>;
