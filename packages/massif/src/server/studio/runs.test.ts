import { appendFileSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { trajectory } from "../../chat/index.ts";
import { saveTokenizer, tokenizerDigest } from "../../tokenizer/index.ts";
import { Keys } from "../keys.ts";
import { scripted } from "../testing.ts";
import { byteTokenizer } from "../testing-model.ts";

/** A folder of runs, and a server that shows it. */
async function served(options: Parameters<typeof scripted>[1] = {}) {
  const base = mkdtempSync(join(tmpdir(), "massif-runs-"));
  const root = join(base, "runs");
  const run = (name: string, config: object = {}) => {
    const dir = join(root, name);
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, "config.json"), JSON.stringify(config));
    writeFileSync(join(dir, "metrics.jsonl"), "");
    return dir;
  };
  mkdirSync(root);
  const first = run("one", { groupSize: 8, steps: 60 });
  const server = await scripted([], { runs: [root], ...options });
  onTestFinished(async () => {
    await server.close();
    rmSync(base, { recursive: true });
  });
  return { base, root, first, run, ...server };
}

const rows = (...steps: number[]) =>
  steps.map((step) => `${JSON.stringify({ step, loss: 9 - step, at: Math.random() })}\n`).join("");

interface SseEvent {
  id?: string;
  event?: string;
  data: string[];
}

/** The stream's events one by one; `until` reads to the first of that name and returns all on the way. */
async function openStream(url: string, ids: string[], lastEventId?: string) {
  const controller = new AbortController();
  const query = ids.map((id) => `run=${encodeURIComponent(id)}`).join("&");
  const response = await fetch(`${url}/api/runs/stream?${query}`, {
    signal: controller.signal,
    ...(lastEventId !== undefined && { headers: { "last-event-id": lastEventId } }),
  });
  expect(response.headers.get("content-type")).toContain("text/event-stream");
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  async function next(): Promise<SseEvent> {
    for (;;) {
      const end = held.indexOf("\n\n");
      if (end < 0) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the stream ended");
        held += value;
        continue;
      }
      const lines = held.slice(0, end).split("\n");
      held = held.slice(end + 2);
      const of = (name: string) => lines.filter((l) => l.startsWith(`${name}: `)).map((l) => l.slice(name.length + 2));
      if (!lines[0]!.startsWith(":")) return { id: of("id")[0], event: of("event")[0], data: of("data") } as SseEvent;
    }
  }
  async function until(event: string): Promise<SseEvent[]> {
    const all: SseEvent[] = [];
    do all.push(await next());
    while (all.at(-1)!.event !== event);
    return all;
  }
  return { next, until, close: () => controller.abort() };
}

const steps = (event: SseEvent) => event.data.slice(1).map((line) => (JSON.parse(line) as { step: number }).step);
const head = (event: SseEvent) => JSON.parse(event.data[0]!) as { run: string; reset?: boolean };

test("finds runs, tells what they are, and reads nothing outside of the roots", async () => {
  const { url, root, base, run } = await served();
  run("two/rounds/1", { epochs: 3 });
  const outside = join(base, "secret");
  mkdirSync(join(outside, "rollouts"), { recursive: true });
  writeFileSync(join(outside, "metrics.jsonl"), rows(1));
  writeFileSync(join(outside, "rollouts/step-1.jsonl"), "{}\n");
  symlinkSync(outside, join(root, "link"));
  const four = run("four");
  symlinkSync(join(outside, "rollouts"), join(four, "rollouts"));
  rmSync(join(four, "metrics.jsonl"));
  symlinkSync(join(outside, "metrics.jsonl"), join(four, "metrics.jsonl"));
  const listed = (await (await fetch(`${url}/api/runs`)).json()) as {
    runs: { id: string; kind: string; steps?: number }[];
  };
  expect(listed.runs.map(({ id, kind, steps }) => [id, kind, steps]).sort()).toEqual([
    ["runs/one", "rl", 60],
    ["runs/two/rounds/1", "sft", undefined],
  ]);
  const status = async (path: string) => (await fetch(url + path)).status;
  for (const run of ["runs/link", "runs/four", "../secret", "runs/../../secret", outside, "runs/one/../one", ""])
    expect(await status(`/api/runs/stream?run=${encodeURIComponent(run)}`), run).toBe(404);
  for (const file of ["../config.json", "step-1.jsonl", "../../../secret/rollouts/step-1.jsonl"])
    expect(await status(`/api/runs/episodes?run=runs%2Fone&file=${encodeURIComponent(file)}`), file).toBe(404);
  expect(await status("/api/runs/stream")).toBe(400);
});

test("a link in place of a run's folder of episodes is not followed", async () => {
  const { url, base, first } = await served();
  mkdirSync(join(base, "elsewhere"));
  writeFileSync(join(base, "elsewhere/step-1.jsonl"), "{}\n");
  symlinkSync(join(base, "elsewhere"), join(first, "rollouts"));
  const about = (await (await fetch(`${url}/api/runs/about?run=runs%2Fone`)).json()) as { episodes: string[] };
  expect(about.episodes).toEqual([]);
  expect((await fetch(`${url}/api/runs/episodes?run=runs%2Fone&file=step-1.jsonl`)).status).toBe(404);
});

test("only for this machine, unless with a key", async () => {
  const ask = (url: string, headers: Record<string, string>) =>
    new Promise<number>((resolve) => {
      request(`${url}/api/runs`, { headers }, (response) => resolve(response.resume().statusCode!)).end();
    });
  const { url } = await served();
  expect(await ask(url, {})).toBe(200);
  expect(await ask(url, { host: "evil.test" })).toBe(403);
  const locked = await served({ keys: new Keys([{ key: "sk-12345678", name: "me" }]) });
  expect(await ask(locked.url, {})).toBe(401);
  expect(await ask(locked.url, { host: "gpu.lan", authorization: "Bearer sk-12345678" })).toBe(200);
});

test("rows come as they are written; a torn line waits for its end; another stream goes on where one stopped", async () => {
  const { url, first } = await served();
  const file = join(first, "metrics.jsonl");
  appendFileSync(file, rows(1, 2));
  const one = await openStream(url, ["runs/one"]);
  const begun = await one.until("now");
  expect(begun.map(({ event }) => event)).toEqual(["metrics", "files", "now"]);
  expect(steps(begun[0]!)).toEqual([1, 2]);
  appendFileSync(file, '{"step":3,"lo');
  appendFileSync(join(first, "events.jsonl"), '{"event":"skip","step":2}\n');
  const [skip] = await one.until("events");
  expect([head(skip!), skip!.data[1]]).toEqual([{ run: "runs/one" }, '{"event":"skip","step":2}']);
  appendFileSync(file, 'ss":6}\n');
  const third = await one.next();
  expect(steps(third)).toEqual([3]);
  one.close();
  appendFileSync(file, rows(4));
  const two = await openStream(url, ["runs/one"], third.id);
  const [more] = await two.until("now");
  expect([head(more!).reset, steps(more!)]).toEqual([undefined, [4]]);
  two.close();
});

test("what was read and is no longer there begins again: truncated, grown past it since, or another file", async () => {
  const { url, first } = await served();
  const file = join(first, "metrics.jsonl");
  writeFileSync(file, rows(1, 2, 3, 4));
  const stream = await openStream(url, ["runs/one"]);
  const place = (await stream.until("now")).at(-1)!.id;
  // A run that goes back to step 2 cuts its rows and writes others.
  writeFileSync(file, rows(1, 2));
  const [cut] = await stream.until("metrics");
  expect([head(cut!).reset, steps(cut!)]).toEqual([true, [1, 2]]);
  stream.close();
  // Longer than before by the time anyone looks: only its content tells.
  writeFileSync(file, rows(1, 2, 3, 4, 5, 6, 7));
  const other = await openStream(url, ["runs/one"], place);
  const [again] = await other.until("now");
  expect([head(again!).reset, steps(again!)]).toEqual([true, [1, 2, 3, 4, 5, 6, 7]]);
  renameSync(file, `${file}.1`);
  writeFileSync(file, rows(1));
  const [fresh] = await other.until("metrics");
  expect(head(fresh!).reset).toBe(true);
  rmSync(file);
  // A missing file is an empty one.
  for (let event = await other.next(); ; event = await other.next())
    if (head(event).reset && !steps(event).length) break;
  other.close();
  writeFileSync(file, rows(1));
  const nonsense = await openStream(url, ["runs/one"], "a&x=1.2&runs%2Fone+metrics=-4.zz");
  expect(steps((await nonsense.until("now"))[0]!)).toEqual([1]);
  nonsense.close();
});

test("several runs in one stream, long files in parts that are whole rows", async () => {
  const { url, first, run } = await served();
  writeFileSync(join(first, "metrics.jsonl"), rows(...Array.from({ length: 9000 }, (_, i) => i)));
  writeFileSync(
    join(run("two"), "metrics.jsonl"),
    `${JSON.stringify({ step: 1, big: "x".repeat(400_000) })}\n${rows(2)}`,
  );
  const stream = await openStream(url, ["runs/one", "runs/two"]);
  const all = (await stream.until("now")).filter(({ event }) => event === "metrics");
  const of = (id: string) => all.filter((event) => head(event).run === id).flatMap(steps);
  expect(of("runs/one")).toEqual(Array.from({ length: 9000 }, (_, i) => i));
  expect(of("runs/two")).toEqual([1, 2]);
  expect(all.length).toBeGreaterThan(3);
  stream.close();
});

test("episodes come with the text and the log-probability of each token the model wrote", async () => {
  const { url, first } = await served();
  const tokenizer = byteTokenizer();
  mkdirSync(join(first, "rollouts"));
  mkdirSync(join(first, "checkpoints/step-5"), { recursive: true });
  await saveTokenizer(tokenizer, join(first, "checkpoints/step-5"));
  const said = [...Buffer.from("é!")];
  const row = trajectory({
    messages: [
      { role: "user", content: "hi" },
      { role: "assistant", content: "é!" },
    ],
    tools: [],
    tokens: {
      ...{ tokenizer: tokenizerDigest(tokenizer), template: "instruct" },
      ids: [1, 2, ...said],
      sources: ["user", "user", "assistant", "assistant", "assistant"],
      logprobs: [null, null, -0.5, -1, -2],
      turns: [{ message: 1, start: 2, end: 5, finish: "stop" }],
    },
  });
  writeFileSync(join(first, "rollouts/step-5.jsonl"), `${JSON.stringify(row)}\n{"no": "trajectory"}\nnot json\n`);
  const answer = await (await fetch(`${url}/api/runs/episodes?run=runs%2Fone&file=step-5.jsonl`)).json();
  expect(answer).toMatchObject({
    ...{ total: 3, unreadable: 2 },
    rows: [
      {
        id: row.id,
        turns: [
          {
            message: 1,
            tokens: [
              { text: "⟨C3⟩", logprob: -0.5 },
              { text: "⟨A9⟩", logprob: -1 },
              { text: "!", logprob: -2 },
            ],
          },
        ],
      },
    ],
  });
});
