import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

const text = readFileSync(`${import.meta.dirname}/../README.md`, "utf8");
const snippets = [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map((match) => match[1]!);

test.each(snippets.map((code) => [code.split("\n").findLast((line) => line.includes("console.log"))!, code]))(
  "the README's snippet prints what it says: %s",
  (line, code) => {
    const here = code.replace('"@massif/torch"', JSON.stringify(`${import.meta.dirname}/index.ts`));
    const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module-typescript", "-e", here], {
      encoding: "utf8",
      env: { ...process.env, NO_COLOR: "1" },
    });
    expect(stderr).toBe("");
    expect(stdout).toBe(`${/\/\/ (.*)$/.exec(line)?.[1]}\n`);
  },
);
