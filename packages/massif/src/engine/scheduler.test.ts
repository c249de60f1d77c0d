import fc from "fast-check";
import { expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { Pages } from "./pages.ts";
import { type Job, Scheduler, type SchedulerOptions } from "./scheduler.ts";

const made = (blocks: number, options: Partial<SchedulerOptions> = {}) =>
  new Scheduler(new Pages(blocks, 4), { tokenBudget: 16, maxRunning: 4, maxWaiting: 100, ...options });
const prompt = (length: number, seed = 0) => {
  const random = new Random(seed);
  return Array.from({ length }, () => random.int(1000));
};
const shape = (scheduler: Scheduler) => {
  const plan = scheduler.next();
  if (plan) scheduler.commit(plan);
  return plan?.slices.map(({ job, from, to }) => [job.order, from, to]);
};

test("prompts are cut into chunks of the budget, and what decodes goes first", () => {
  const scheduler = made(64);
  const short = scheduler.submit(prompt(3), { maxTokens: 4 });
  expect(shape(scheduler)).toEqual([[0, 0, 3]]);
  short.seq.tokens.push(1);
  scheduler.submit(prompt(40, 1), { maxTokens: 4 });
  scheduler.submit(prompt(5, 2), { maxTokens: 4 });
  expect(shape(scheduler)).toEqual([
    [0, 3, 4],
    [1, 0, 15],
  ]);
  short.seq.tokens.push(1);
  expect(shape(scheduler)).toEqual([
    [0, 4, 5],
    [1, 15, 30],
  ]);
  expect(shape(scheduler)).toEqual([
    [1, 30, 40],
    [2, 0, 5],
  ]);
});

test("a client with many requests does not keep another waiting", () => {
  const scheduler = made(64, { maxRunning: 2 });
  for (let i = 0; i < 3; i++) scheduler.submit(prompt(4, i), { maxTokens: 1, client: "many" });
  scheduler.submit(prompt(4, 9), { maxTokens: 1, client: "one" });
  expect(shape(scheduler)!.map(([order]) => order)).toEqual([0, 3]);
});

test("the last to have come makes room, and goes on before those that wait", () => {
  const scheduler = made(4);
  const a = scheduler.submit(prompt(7, 1), { maxTokens: 8 });
  const b = scheduler.submit(prompt(4, 2), { maxTokens: 8 });
  const c = scheduler.submit(prompt(4, 3), { maxTokens: 8 });
  shape(scheduler);
  expect(scheduler.running).toEqual([a]);
  for (let i = 0; i < 2; i++) {
    a.seq.tokens.push(i);
    shape(scheduler);
  }
  expect(scheduler.counts.preemptions).toBe(0);
  scheduler.end(a);
  shape(scheduler);
  expect(scheduler.running).toEqual([b, c]);
  for (let i = 0; i < 5; i++) {
    for (const job of scheduler.running) if (job.seq.tokens.length === job.seq.computed) job.seq.tokens.push(i);
    shape(scheduler);
  }
  // Both need a third block after their eighth token, and there are four.
  expect(scheduler.counts.preemptions).toBe(1);
  expect(scheduler.running).toEqual([b]);
  scheduler.submit(prompt(4, 4), { maxTokens: 1, client: "new" });
  scheduler.end(b);
  // Its first block is found again, the five tokens after it are computed again.
  expect(shape(scheduler)).toEqual([[2, 4, 9]]);
  expect(scheduler.running).toEqual([c]);
});

test("what does not fit is refused by name", () => {
  const scheduler = made(4, { maxWaiting: 1, maxRunning: 2 });
  expect(() => scheduler.submit(prompt(10), { maxTokens: 7 })).toThrow("at most 16 together");
  expect(() => scheduler.submit(prompt(1), { maxTokens: 1, width: 3 })).toThrow("n is 3");
  scheduler.submit(prompt(1), { maxTokens: 1 });
  expect(() => scheduler.submit(prompt(1), { maxTokens: 1 })).toThrow("1 requests are waiting");
});

test("while draining only what has run goes on", () => {
  const scheduler = made(64, { maxRunning: 1 });
  const a = scheduler.submit(prompt(4), { maxTokens: 2 });
  shape(scheduler);
  scheduler.submit(prompt(4, 1), { maxTokens: 2 });
  scheduler.draining = true;
  expect(scheduler.underWay).toBe(true);
  a.seq.tokens.push(1);
  expect(shape(scheduler)).toEqual([[0, 4, 5]]);
  scheduler.end(a);
  expect(scheduler.underWay).toBe(false);
  expect(shape(scheduler)).toBeUndefined();
  scheduler.draining = false;
  expect(shape(scheduler)).toEqual([[1, 0, 4]]);
});

interface Arrival {
  at: number;
  prompt: number;
  answer: number;
  width: number;
  client: string;
  /** Steps after which its reader leaves, if it does. */
  leaves: number;
}

/** A step costs 1 and 0.01 a token. Returns when each was done, and checks the accounts at every step. */
function simulate(arrivals: readonly Arrival[], blocks: number, options: Partial<SchedulerOptions> = {}) {
  const scheduler = made(blocks, options);
  const { pool } = scheduler.pages;
  const done = new Map<number, number>();
  const said = new Map<Job, number>();
  const waiting = arrivals.map((arrival, i) => ({ ...arrival, i })).sort((a, b) => a.at - b.at || a.i - b.i);
  const jobs = new Map<Job, Arrival & { i: number; age: number }>();
  let clock = 0;
  for (let steps = 0; waiting.length || jobs.size; steps++) {
    if (steps > 20_000) throw new Error("it does not end");
    for (; waiting.length && waiting[0]!.at <= clock; waiting.shift()) {
      const arrival = waiting[0]!;
      const { client, width, answer: maxTokens } = arrival;
      // Few distinct prompts, so that prefixes are found.
      const job = scheduler.submit(prompt(arrival.prompt, arrival.prompt % 3), { client, width, maxTokens });
      jobs.set(job, { ...arrival, age: 0 });
      said.set(job, 0);
    }
    const plan = scheduler.next();
    if (!plan) {
      expect(jobs.size).toBe(0);
      clock = Math.max(clock, waiting[0]?.at ?? clock);
      continue;
    }
    const tokens = plan.slices.reduce((sum, { from, to }) => sum + to - from, 0);
    expect(tokens).toBeLessThanOrEqual(scheduler.options.tokenBudget);
    for (const { job, from, to } of plan.slices) {
      expect(to).toBeGreaterThan(from);
      expect(scheduler.running).toContain(job);
      expect(job.seq.blocks.length).toBe(scheduler.pages.blocksFor(to));
    }
    scheduler.commit(plan);
    clock += 1 + 0.01 * tokens;
    for (const { job, to } of plan.slices) {
      const arrival = jobs.get(job)!;
      if (to < job.seq.tokens.length) continue;
      for (let w = 1; w < job.width; w++) {
        const fork = scheduler.fork(job);
        fork.seq.tokens.push(w);
        jobs.set(fork, { ...arrival });
        said.set(fork, 1);
      }
      job.width = 1;
      job.seq.tokens.push(0);
      said.set(job, said.get(job)! + 1);
    }
    for (const [job, arrival] of jobs) {
      if (said.get(job)! < arrival.answer && ++arrival.age < arrival.leaves) continue;
      scheduler.end(job);
      jobs.delete(job);
      done.set(arrival.i, clock);
    }
    const held = new Set(scheduler.running.flatMap(({ seq }) => seq.blocks));
    expect(scheduler.waiting.flatMap(({ seq }) => seq.blocks)).toEqual([]);
    expect(pool.free).toBe(blocks - held.size);
  }
  expect(pool.free).toBe(blocks);
  return { done, clock, counts: scheduler.counts };
}

test("fuzz against a cost model in virtual time: everything ends, every account balances, twice the same", () => {
  const arrival = fc.record({
    at: fc.integer({ min: 0, max: 60 }),
    prompt: fc.integer({ min: 1, max: 40 }),
    answer: fc.integer({ min: 1, max: 20 }),
    width: fc.integer({ min: 1, max: 3 }),
    client: fc.constantFrom("a", "b"),
    leaves: fc.constantFrom(5, 1e9, 1e9),
  });
  fc.assert(
    fc.property(
      fc.array(arrival, { minLength: 1, maxLength: 25 }),
      fc.integer({ min: 15, max: 60 }),
      (arrivals, blocks) => {
        const first = simulate(arrivals, blocks);
        expect(first.done.size).toBe(arrivals.length);
        expect(simulate(arrivals, blocks)).toEqual(first);
      },
    ),
    { numRuns: 150, seed: 11 },
  );
});

test("first come, first served: with one client and equal requests, nobody is overtaken", () => {
  const arrivals = Array.from({ length: 30 }, (_, i) => ({
    ...{ at: i, prompt: 20, answer: 10, width: 1, client: "", leaves: Infinity },
  }));
  const { done, counts } = simulate(arrivals, 24);
  const order = [...done.entries()].sort((a, b) => a[1] - b[1] || a[0] - b[0]).map(([i]) => i);
  expect(order).toEqual(arrivals.map((_, i) => i));
  expect(counts.matched).toBe(29 * 16);
});

test("a long prompt holds up what decodes by no more than its chunk a step", () => {
  const decoding = { at: 0, prompt: 4, answer: 20, width: 1, client: "", leaves: Infinity };
  const alone = simulate([decoding], 64).done.get(0)!;
  const beside = simulate([decoding, { ...decoding, at: 3, prompt: 160, answer: 1 }], 64).done.get(0)!;
  expect(beside - alone).toBeLessThanOrEqual(0.01 * 160 + 0.01);
});
