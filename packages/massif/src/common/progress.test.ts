import { expect, test } from "vitest";
import { count, duration, Progress } from "./progress.ts";

function setting(stream: { isTTY?: boolean; columns?: number } = {}, silent = false) {
  const written: string[] = [];
  const clock = { ms: 0 };
  const to = { ...stream, write: (text: string) => written.push(text) };
  const progress = new Progress({ stream: to, now: () => clock.ms, silent });
  return { progress, written, clock, stream: to };
}

test("a terminal gets one line rewritten at most ten times a second", () => {
  const { progress, written, clock } = setting({ isTTY: true, columns: 80 });
  const stage = progress.stage("pretrain", "about 20 s", { total: 100 });
  for (clock.ms = 1000; clock.ms < 1200; clock.ms += 50) stage.update(clock.ms / 200, ["loss 3.21", "9.1k tokens/s"]);
  clock.ms = 20_000;
  stage.done("loss 2.50");
  stage.update(100);
  expect(written).toEqual([
    "pretrain (about 20 s)\n",
    "\rpretrain 5/100 · 19 s left · loss 3.21 · 9.1k tokens/s\x1b[K",
    "\rpretrain 5.5/100 · 19 s left · loss 3.21 · 9.1k tokens/s\x1b[K",
    "\r\x1b[K",
    "pretrain: loss 2.50, 20 s\n",
  ]);
});

test("what comes before the work is not in its rate", () => {
  const { progress, written, clock } = setting({ isTTY: true, columns: 80 });
  const stage = progress.stage("pretrain", "", { total: 100 });
  clock.ms = 60_000; // an evaluation, say
  stage.update(0);
  clock.ms = 61_000;
  stage.update(10);
  expect(written.slice(1)).toEqual(["\rpretrain 10/100 · 9.0 s left\x1b[K"]);
});

test("a pipe gets a plain line every five seconds", () => {
  const { progress, written, clock } = setting();
  const stage = progress.stage("tokenizer", "about 8 s");
  for (clock.ms = 500; clock.ms <= 11_000; clock.ms += 500) stage.update(clock.ms);
  stage.done();
  expect(written).toEqual([
    "tokenizer (about 8 s)\n",
    "tokenizer 500\n",
    "tokenizer 5500\n",
    "tokenizer 10.5k\n",
    "tokenizer: 12 s\n",
  ]);
});

test("what stays steps in front of the live line", () => {
  const { progress, written, clock } = setting({ isTTY: true, columns: 80 });
  const stage = progress.stage("run");
  clock.ms = 100;
  stage.update(1);
  progress.print("a sample");
  stage[Symbol.dispose]();
  expect(written).toEqual(["run\n", "\rrun 1\x1b[K", "\r\x1b[K", "a sample\n", "\rrun 1\x1b[K", "\r\x1b[K"]);
});

test("a narrow terminal drops the last facts first, and never overflows", () => {
  const { progress, written, clock, stream } = setting({ isTTY: true, columns: 24 });
  const stage = progress.stage("pretrain", "", { total: 10 });
  const widths = [24, 12, 2, 1];
  for (const columns of widths) {
    stream.columns = columns;
    clock.ms += 1000;
    stage.update(5, ["loss 3\n\x1b[31m", "more"]);
  }
  expect(written.slice(1)).toEqual(["\rpretrain 5/10\x1b[K", "\rpretrain 5…\x1b[K", "\r…\x1b[K", "\r\x1b[K"]);
  stream.columns = 7;
  clock.ms += 1000;
  progress.stage("山脈山脈").update(1);
  expect(written.at(-1)).toBe("\r山脈…\x1b[K");
});

test("a resumed stage counts its rate from where it went on", () => {
  const { progress, written, clock } = setting({ isTTY: true, columns: 80 });
  const stage = progress.stage("pretrain", "", { total: 100, from: 90 });
  clock.ms = 2000;
  stage.update(92);
  expect(written[1]).toBe("\rpretrain 92/100 · 8.0 s left\x1b[K");
});

test("silent writes nothing", () => {
  const { progress, written, clock } = setting({ isTTY: true }, true);
  const stage = progress.stage("run");
  clock.ms = 1000;
  stage.update(1);
  progress.print("x");
  stage.done();
  expect(written).toEqual([]);
});

test("numbers for people", () => {
  expect([0.84, 9.96, 59.7, 185, 7800, Number.NaN].map(duration)).toEqual([
    "0.8 s",
    "10 s",
    "1 min 00 s",
    "3 min 05 s",
    "2 h 10 min",
    "?",
  ]);
  expect([7, 9999, 12_345, 999_999, 1_026_408_232_448, -20_000, 0.12345].map(count)).toEqual([
    "7",
    "9999",
    "12.3k",
    "1.00M",
    "1.03T",
    "-20.0k",
    "0.123",
  ]);
});
