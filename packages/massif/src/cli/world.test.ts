import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, expect, test } from "vitest";
import { openWorld, oracle, play, record, WorldEnvironment } from "../worlds/index.ts";

const main = resolve(import.meta.dirname, "main.ts");
const folder = mkdtempSync(join(tmpdir(), "massif-world-"));
afterAll(() => rmSync(folder, { recursive: true }));

function massif(...args: string[]) {
  const { stdout, stderr, status } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" });
  return { stdout, stderr, status };
}

/** The ledger under another name: a file that Massif does not ship. */
const own = join(folder, "own.json");
const text = readFileSync(resolve(import.meta.dirname, "../worlds/shipped/ledger.json"), "utf8").replace(
  '"world": "ledger"',
  '"world": "own"',
);
writeFileSync(own, text);

test("check: a sound file 0, a broken one 1 with its line, a wrong call 2; --json is one object", () => {
  const good = massif("world", "check", own, "--episodes", "20", "--json");
  expect(good.status).toBe(0);
  const report = JSON.parse(good.stdout);
  expect(report).toMatchObject({ ok: true, worlds: [{ file: own, world: "own", ok: true, problems: [] }] });
  expect(report.worlds[0].scores).toContainEqual({ player: "oracle", success: 1, n: 400, bar: "1", ok: true });
  const broken = join(folder, "broken.json");
  writeFileSync(broken, text.replace('"$account.balance"', '"$account.blance"'));
  const bad = massif("world", "check", broken, "puzzles", "--episodes", "20");
  expect(bad.status).toBe(1);
  expect(bad.stdout).toMatch(
    /broken\.json:\d+:\d+ tools\[0\]\.result\.balance: account has no field 'blance'; did you mean 'balance'\?/,
  );
  expect(bad.stdout).toContain("ok  puzzles, 20 questions");
  expect(massif("world", "chek").status).toBe(2);
});

test("a world that rewards an exploit is refused, with the exploit's name", () => {
  const loose = join(folder, "loose.json");
  const world = JSON.parse(text);
  // Refusing at once is made right: no evidence is asked for, only a word.
  world.tasks = world.tasks.filter((t: { task: string }) => t.task === "refuse");
  world.tasks[0].outcome = { tell: ["$amount"], says: "refused" };
  world.tasks[0].answer = ["Refused: {amount}."];
  writeFileSync(loose, JSON.stringify(world));
  const { status, stdout } = massif("world", "check", loose, "--episodes", "20");
  expect(status).toBe(1);
  expect(stdout).toContain("answer without tools scores 1.000 (≤ 0.25)");
});

test("verify-trajectory accepts gold rows, also of a world it is given, and names the first reason otherwise", async () => {
  const rows = [];
  for (const name of ["ledger", own]) {
    const env = new WorldEnvironment(openWorld(name));
    rows.push(record(env, await play(env, 3, oracle)));
  }
  const file = join(folder, "rows.jsonl");
  writeFileSync(file, `${rows.map((r) => JSON.stringify(r)).join("\n")}\n{"broken"\n`);
  const all = massif("verify-trajectory", file, "--world", own, "--json");
  expect(all.status).toBe(1);
  expect(JSON.parse(all.stdout)).toMatchObject({
    accepted: 2,
    rejected: 1,
    rows: [
      { row: 1, accepted: true },
      { row: 2, accepted: true },
      { row: 3, accepted: false, gate: "row", why: "not JSON" },
    ],
  });
  const some = massif("verify-trajectory", file);
  expect(some.stdout).toContain("row 2: world: no world 'own' here");
});
