/** Tokenizer against Hugging Face tokenizers and tiktoken (both Rust), one thread each, alternating in one run.
 *
 *    node bench/tokenizer.ts [--mb 10] [--rounds 5] [--python /work/venv-peers/bin/python]
 *
 *  Texts: ../shared/data/text/classic_books.jsonl.xz, in documents of some 10,000 characters. (Under 3 MB have no 32,768 tokens.) Encoding uses Kimi K2's own
 *  vocabulary. Prints medians and the ratio peer ÷ ours (over 1: we are faster), and whether ids and vocabularies agree. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { readJsonl } from "../packages/massif/src/common/index.ts";
import { spell } from "../packages/massif/src/tokenizer/bytes.ts";
import { loadTokenizer, patterns, saveTokenizer, trainTokenizer } from "../packages/massif/src/tokenizer/index.ts";

const { values } = parseArgs({
  options: {
    mb: { type: "string", default: "10" },
    rounds: { type: "string", default: "5" },
    python: { type: "string", default: "/work/venv-peers/bin/python" },
  },
});
const data = resolve(import.meta.dirname, "../../shared/data");
const folder = mkdtempSync(join(tmpdir(), "massif-bench-"));
const rounds = Number(values.rounds);

const texts: string[] = [];
let characters = 0;
for await (const { text } of readJsonl<{ text: string }>(join(data, "text/classic_books.jsonl.xz"))) {
  for (let at = 0; at < text.length && characters < Number(values.mb) * 1e6; at += 10_000) {
    texts.push(text.slice(at, at + 10_000).toWellFormed());
    characters += texts.at(-1)!.length;
  }
}
writeFileSync(join(folder, "texts.json"), JSON.stringify(texts));
const kimi = await loadTokenizer(join(data, "tokenizers/kimi_tiktoken.model.xz"));
await saveTokenizer(kimi, folder);

const peer = spawn(values.python, [join(import.meta.dirname, "peers/tokenizer_peer.py"), folder, patterns.k2], {
  stdio: ["pipe", "pipe", "inherit"],
});
const replies = createInterface(peer.stdout)[Symbol.asyncIterator]();
interface Result {
  ms: number;
  hash: string;
  peakMB: number;
}
async function theirs(job: object): Promise<Result> {
  peer.stdin.write(`${JSON.stringify(job)}\n`);
  const reply = await replies.next();
  if (reply.done) throw new Error("the Python peer has ended");
  return JSON.parse(reply.value);
}

function timed<T>(work: () => T, hashOf: (made: T) => string): Result {
  const start = performance.now();
  const made = work();
  const ms = performance.now() - start;
  return { ms, hash: hashOf(made), peakMB: process.resourceUsage().maxRSS / 1024 };
}
const encode = () =>
  timed(
    () => texts.map((text) => kimi.encode(text)),
    (all) => {
      const hash = createHash("sha256");
      for (const ids of all) hash.update(ids);
      return hash.digest("hex");
    },
  );
const train = (size: number) =>
  timed(
    () => trainTokenizer(texts, { vocabSize: size, special: [] }).vocabulary,
    (vocabulary) => {
      const tokens = Array.from({ length: vocabulary.size }, (_, id) => spell(vocabulary.bytes(id)));
      return createHash("sha256").update(tokens.join("\n")).digest("hex");
    },
  );

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;

async function compare(name: string, ours: () => Result, job: object): Promise<void> {
  const mine: Result[] = [];
  const other: Result[] = [];
  for (let round = 0; round < rounds; round++) {
    mine.push(ours());
    other.push(await theirs(job));
  }
  const [a, b] = [median(mine.map(({ ms }) => ms)), median(other.map(({ ms }) => ms))];
  const ratios = mine.map(({ ms }, i) => other[i]!.ms / ms);
  const rate = (ms: number) => `${(characters / ms / 1000).toFixed(1)} M characters/s`;
  console.log(
    `${name.padEnd(34)} ours ${a.toFixed(0).padStart(6)} ms (${rate(a)}, peak ${mine.at(-1)!.peakMB.toFixed(0)} MB)` +
      `  peer ${b.toFixed(0).padStart(6)} ms (${rate(b)}, peak ${other.at(-1)!.peakMB.toFixed(0)} MB)` +
      `  ratio ${median(ratios).toFixed(2)} [${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}]` +
      `  ${mine[0]!.hash === other[0]!.hash ? "same result" : "DIFFERENT RESULT"}`,
  );
}

console.log(`${(characters / 1e6).toFixed(1)} M characters in ${texts.length} documents, ${rounds} rounds`);
try {
  await compare("encode, K2 vs tiktoken", encode, { task: "encode", with: "tiktoken" });
  await compare("encode, K2 vs tokenizers", encode, { task: "encode", with: "tokenizers" });
  await compare("train 4,096 vs tokenizers", () => train(4096), { task: "train", size: 4096 });
  await compare("train 32,768 vs tokenizers", () => train(32768), { task: "train", size: 32768 });
} finally {
  peer.stdin.end();
  rmSync(folder, { recursive: true });
}
