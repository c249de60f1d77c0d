import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { MassifError } from "../common/index.ts";
import { examine } from "./check.ts";
import { oracle } from "./oracle.ts";
import { plan } from "./planner.ts";
import { play, say, use } from "./play.ts";
import { openWorld, shippedWorlds } from "./shipped.ts";
import { Source } from "./source.ts";
import { compileWorld } from "./world.ts";
import { WorldEnvironment } from "./world-environment.ts";

const ledgerText = readFileSync(join(import.meta.dirname, "shipped/ledger.json"), "utf8");
const lineOf = (text: string, part: string) => text.slice(0, text.indexOf(part)).split("\n").length;

function refusal(text: string): MassifError {
  try {
    compileWorld(new Source("w.json", text));
  } catch (error) {
    if (error instanceof MassifError) return error;
    throw error;
  }
  throw new Error("compiled");
}

test("nine worlds are shipped, seven of them as files", () => {
  expect(shippedWorlds()).toEqual(["bank", "calendar", "ledger", "lookup-chain", "recover", "retail", "tool-select"]);
});

test.each([
  [
    '"conserved": ["sum", "a", "account", "$a.balance"]',
    '"conserved": ["sum", "a", "acount", "$a.balance"]',
    "acount",
    "no entity 'acount'; did you mean 'account'?",
  ],
  [
    '"$from.balance", "$amount"]',
    '"$from.balanc", "$amount"]',
    'balanc"',
    "account has no field 'balanc'; did you mean 'balance'?",
  ],
  ['"version": 2', '"vresion": 2', "vresion", "unknown key 'vresion'; did you mean 'version'?"],
  ['"says": "refused"', '"says": "refusd"', "refusd", "no speech 'refusd'"],
  [
    '"evidence": [["called", "read", { "account": "$x" }]], "says": "refused"',
    '"says": "refused"',
    '"outcome": { "says": "refused"',
    "needs 'evidence'",
  ],
  [
    "Move {amount} from {x} to {y}.",
    "Move {x} to {y}.",
    "Move {x} to {y}.",
    "one wording tells {x, y}, another {amount, x, y}",
  ],
])("%s → %s points at its line", (from, to, where, message) => {
  const text = ledgerText.replace(from, to);
  const error = refusal(text);
  expect(error.code).toBe("world.invalid");
  expect(error.message).toContain(`w.json:`);
  expect(error.message).toContain(message);
  const lines = [...error.message.matchAll(/w\.json:(\d+):/g)].map((m) => Number(m[1]));
  // A wording is told at its task's `say`, a few lines above.
  expect(lines.some((line) => Math.abs(line - lineOf(text, where)) <= 3)).toBe(true);
});

test("what is not JSON names line and column", () => {
  expect(refusal('{\n  "world": "x",\n}').message).toContain("w.json:3:1 is not JSON");
  expect(refusal('{"a": 1,\n "a": 2}').message).toContain("w.json:2:2 a: this key stands here twice");
});

test("a file nested too deep, or with more rows than its tables hold, is refused and not run", () => {
  expect(refusal("[".repeat(100_000)).code).toBe("world.json");
  const many = compileWorld(new Source("w.json", ledgerText.replace('"count": 6', '"count": 512')));
  expect(() => new WorldEnvironment(many).reset(1)).toThrow(/nothing left to draw|more than its 8 rows/);
});

test("no JSON makes the compiler throw anything but an error with a code", () => {
  const base = JSON.parse(ledgerText);
  const edit = fc.record({ path: fc.array(fc.nat(20), { maxLength: 6 }), value: fc.jsonValue({ maxDepth: 2 }) });
  fc.assert(
    fc.property(edit, ({ path, value }) => {
      const world = structuredClone(base);
      let at: Record<string, unknown> = world;
      let key = Object.keys(at)[(path[0] ?? 0) % Object.keys(at).length] ?? "";
      for (const step of path.slice(1)) {
        const inner = at[key];
        if (typeof inner !== "object" || inner === null || !Object.keys(inner).length) break;
        at = inner as Record<string, unknown>;
        key = Object.keys(at)[step % Object.keys(at).length] ?? "";
      }
      at[key] = value;
      try {
        const env = new WorldEnvironment(compileWorld(new Source("w.json", JSON.stringify(world))));
        env.reset(1);
        env.step(use({ name: "read", args: { account: "anna" } }));
        plan(env.inside.task, { nodes: 200, depth: 4 });
      } catch (error) {
        if (!(error instanceof MassifError)) throw error;
      }
    }),
    { numRuns: 300 },
  );
});

// A small n here; `massif world check` runs more, and bench/worlds.ts says how many a minute.
test.each(shippedWorlds())("%s is sound: every task proven, oracle 1, every exploit at most 0.25", async (name) => {
  const report = await examine(openWorld(name), 25);
  expect(report.problems).toEqual([]);
  expect(report.scores.find((s) => s.player === "oracle")?.success).toBe(1);
  expect(report.scores).toHaveLength(14);
});

test("splits hold out names, wordings and pairs, each by itself", () => {
  const world = openWorld("ledger");
  const { names } = world.file.banks;
  const heldout = Array.isArray(names) ? [] : (names?.heldout ?? []);
  for (let seed = 0; seed < 60; seed++) {
    const both = new WorldEnvironment(world, "heldout");
    both.reset(seed);
    const { initial, type, vars } = both.inside.task;
    expect(Object.keys(initial.account ?? {}).every((n) => heldout.includes(n))).toBe(true);
    const pairs = new WorldEnvironment(world, { pairs: "heldout" });
    pairs.reset(seed);
    const task = pairs.inside.task;
    expect(Object.keys(task.initial.account ?? {}).some((n) => heldout.includes(n))).toBe(false);
    if (!type.holdout) continue;
    const balanceOf = (name: unknown) => initial.account?.[String(name)]?.balance as number;
    const second = (vars.amount as number | undefined) ?? balanceOf(vars.y);
    expect((balanceOf(vars.x) * 3 + second) % 5).toBe(0);
  }
});

test("an alternative way that is right is accepted: more reads, another order, other words", () => {
  const env = new WorldEnvironment(openWorld("ledger"));
  for (let seed = 0; seed < 200; seed++) {
    env.reset(seed);
    const { type, vars } = env.inside.task;
    if (type.name !== "transfer") continue;
    env.step(use({ name: "read", args: { account: vars.y } }, { name: "read", args: { account: vars.x } }));
    env.step(use({ name: "transfer", args: { from: vars.x, to: vars.y, amount: vars.amount } }));
    env.step(say(`It is done: ${vars.y} has it.`));
    expect(env.score().success).toBe(true);
    return;
  }
  expect.fail("no transfer among 200 seeds");
});

test("ledger: to read and then move the amount asked, uncompared, is no way to win (small-rl.md, point 8: 0.56 there)", async () => {
  const env = new WorldEnvironment(openWorld("ledger"));
  let wins = 0;
  for (let seed = 0; seed < 2000; seed++) {
    const { verdict } = await play(env, seed, {
      name: "never compare",
      start: () => {
        const { x, y, amount } = env.inside.task.vars;
        const acts = [use({ name: "read", args: { account: x } })];
        if (y !== undefined) acts.push(use({ name: "transfer", args: { from: x, to: y, amount: amount ?? 5 } }));
        return () => acts.shift() ?? say(y === undefined ? "Yes." : "Done.");
      },
    });
    wins += verdict.reward;
  }
  // 6/46 transfers, 4/46 "enough", and one in nine of the 4/46 "all" by luck: 0.227 expected. The opposite, to move or
  // tell whatever was read, is an exploit of every world (exploits.ts).
  expect(wins / 2000).toBeLessThanOrEqual(0.25);
});

test("any free room will do where the task is open", async () => {
  const env = new WorldEnvironment(openWorld("calendar"));
  const rooms = new Set<string>();
  for (let seed = 0; seed < 40; seed++) {
    env.reset(seed);
    if (!env.inside.task.type.open) continue;
    const { verdict } = await play(env, seed, oracle);
    expect(verdict.success).toBe(true);
    rooms.add(String(Object.values(env.inside.progress.state.event ?? {}).at(-1)?.room));
  }
  expect(rooms.size).toBeGreaterThan(1);
});
