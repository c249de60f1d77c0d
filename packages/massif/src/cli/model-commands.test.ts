import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

// `massif inspect` and `massif parity` from the outside.
const root = resolve(import.meta.dirname, "../../../..");
const archives = resolve(root, "../shared/data/parity");
let box: string;
beforeAll(() => {
  box = mkdtempSync(join(tmpdir(), "massif-cli-"));
});
afterAll(() => rmSync(box, { recursive: true }));

function massif(args: string[], env: NodeJS.ProcessEnv = process.env) {
  const main = join(root, "packages/massif/src/cli/main.ts");
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { cwd: root, env, encoding: "utf8" });
  return { status, stdout, stderr };
}

describe("massif inspect", () => {
  // No torch can be found here; if one were loaded, it would have to be from this folder.
  const bare = () => ({ PATH: "", HOME: box, LIBTORCH: join(box, "none"), MASSIF_CACHE: box });

  test("gives the real model's sizes on a machine without torch", () => {
    const { status, stdout, stderr } = massif(["inspect", "recipes/kimi-k2/config.json", "--json"], bare());
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(JSON.parse(stdout)).toMatchObject({
      parameters: 1_026_408_232_448,
      activeParameters: 32_861_500_928,
      kvBytesPerToken: 70_272,
      context: 4096,
    });
  });

  test("takes a folder and a context, and prints the same in words", () => {
    const { stdout } = massif(["inspect", "recipes/kimi-k2", "--context", "131072"], bare());
    for (const text of ["1,026,408,232,448", "32,861,500,928", "70,272 B", "958.49 GiB", "553.40 GiB", "8.58 GiB"])
      expect(stdout).toContain(text);
  });

  test.for([
    [[], 2, "no path"],
    [["a", "b"], 2, "2 paths"],
    [["recipes/kimi-k2", "--context", "0"], 2, "--context 0"],
    [["recipes/kimi-k2", "--contxt", "1"], 2, "did you mean --context"],
    [["nowhere"], 1, "cannot read nowhere"],
  ] as const)("%j gives exit code %s", ([args, code, text]) => {
    const { status, stdout, stderr } = massif(["inspect", ...args], bare());
    expect({ status, stdout }).toEqual({ status: code, stdout: "" });
    expect(stderr).toContain(text);
  });

  test("another kind of model is refused", () => {
    const file = join(box, "config.json");
    writeFileSync(file, JSON.stringify({ model_type: "llama" }));
    expect(massif(["inspect", file], bare())).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('model_type is "llama"'),
    });
  });
});

describe("massif parity", () => {
  test.for([[[]], [["nowhere"]], [["nowhere", "--jsn"]]] as const)("%j is a wrong call", ([args]) => {
    expect(massif(["parity", ...args])).toMatchObject({ status: 2, stdout: "" });
  });

  test.skipIf(!existsSync(archives))("prints an object for one folder, an array for several, or a table", () => {
    execFileSync("tar", ["xf", join(archives, "b.tar.xz"), "-C", box]);
    const folder = join(box, "b");
    const one = massif(["parity", folder, "--json"]);
    expect(one.status).toBe(0);
    expect(JSON.parse(one.stdout)).toMatchObject({ ok: true, greedyEqual: true });
    const table = massif(["parity", folder]).stdout.split("\n");
    expect(table[0]).toBe(folder);
    expect(table.slice(1, 8).every((line) => line.endsWith("passes"))).toBe(true);

    const other = join(box, "other");
    execFileSync("cp", ["-r", folder, other]);
    execFileSync("cp", [join(folder, "generation_config.json"), join(other, "config.kimi_k2.json")]);
    expect(massif(["parity", folder, other, "--json"])).toMatchObject({ status: 1, stdout: "" });
    rmSync(join(other, "config.kimi_k2.json"));
    const two = massif(["parity", folder, other, "--json"]);
    expect(JSON.parse(two.stdout).map(({ ok }: { ok: boolean }) => ok)).toEqual([true, true]);
  });
});
