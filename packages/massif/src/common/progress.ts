/**
 * What a long command shows: stages with an estimate and the time they took, and within a stage one live line. On a
 * terminal the line is rewritten at most ten times a second; in a pipe it becomes a plain line every few seconds.
 */
import { stripVTControlCharacters } from "node:util";

export interface ProgressOptions {
  /** Where it shows; standard error by default, since standard output belongs to results. */
  stream?: { isTTY?: boolean; columns?: number; write(text: string): unknown };
  /** Milliseconds from any origin. */
  now?: () => number;
  silent?: boolean;
  /** Seconds between two lines in a pipe. */
  everySeconds?: number;
}

export interface StageOptions {
  /** How many units of work there are (steps, files, bytes); without it no share and no time left are shown. */
  total?: number;
  /** How many were done before, in a resumed run: they do not count for the rate. */
  from?: number;
}

export class Progress {
  readonly #stream: NonNullable<ProgressOptions["stream"]>;
  readonly #now: () => number;
  readonly #silent: boolean;
  readonly #everyMs: number;
  #live = "";

  constructor({
    stream = process.stderr,
    now = () => performance.now(),
    silent,
    everySeconds = 5,
  }: ProgressOptions = {}) {
    this.#stream = stream;
    this.#now = now;
    this.#silent = silent ?? false;
    this.#everyMs = everySeconds * 1000;
  }

  /** Announces a stage: `stage("tokenizer", "about 8 s")`. Its `update` feeds the live line, its `done` closes it. */
  stage(name: string, about = "", { total, from = 0 }: StageOptions = {}): Stage {
    const began = this.#now();
    let working = began;
    let shownAt = -Infinity;
    let closed = false;
    this.print(about ? `${name} (${about})` : name);

    const update = (done: number, facts: string[] = []) => {
      const now = this.#now();
      if (done <= from) working = now;
      if (done <= from || closed || now - shownAt < (this.#stream.isTTY ? 100 : this.#everyMs)) return;
      shownAt = now;
      const parts = [`${name} ${total === undefined ? count(done) : `${count(done)}/${count(total)}`}`];
      const seconds = (now - working) / 1000;
      const rate = (done - from) / seconds;
      if (total !== undefined && rate > 0 && done < total) parts.push(`${duration((total - done) / rate)} left`);
      this.#show([...parts, ...facts]);
    };
    const close = (text?: string) => {
      if (closed) return;
      closed = true;
      this.#clear();
      if (text !== undefined) this.print(text);
    };
    return {
      update,
      done: (result = "") => {
        const took = duration((this.#now() - began) / 1000);
        close(`${name}: ${result ? `${result}, ` : ""}${took}`);
      },
      [Symbol.dispose]: () => close(),
    };
  }

  /** A line that stays (a warning, a sample of text); the live line steps aside for it. */
  print(text: string): void {
    if (this.#silent) return;
    const live = this.#live;
    this.#clear();
    this.#stream.write(`${text}\n`);
    if (live) this.#draw(live);
  }

  #show(parts: string[]): void {
    if (this.#silent) return;
    if (!this.#stream.isTTY) this.#stream.write(`${parts.join(" · ")}\n`);
    else this.#draw(fit(parts, (this.#stream.columns || 80) - 1));
  }

  #draw(line: string): void {
    this.#stream.write(`\r${line}\x1b[K`);
    this.#live = line;
  }

  #clear(): void {
    if (this.#live) this.#stream.write("\r\x1b[K");
    this.#live = "";
  }
}

export interface Stage extends Disposable {
  /** `done` units so far; `facts` follow in order of importance, since a narrow terminal drops the last first. With
   *  nothing done yet, nothing is shown: the rate is counted from here. */
  update(done: number, facts?: string[]): void;
  /** Closes the live line and says how long the stage took; left undone (an error), `using` closes it in silence. */
  done(result?: string): void;
}

/** As many parts as fit into `width` columns; the first is cut where even it does not. */
function fit(parts: string[], width: number): string {
  const clean = parts.map((part) => stripVTControlCharacters(part).replace(/[\x00-\x1f\x7f]+/g, " "));
  let line = clean[0] ?? "";
  for (const part of clean.slice(1)) {
    const longer = `${line} · ${part}`;
    if (columns(longer) > width) break;
    line = longer;
  }
  if (columns(line) <= width) return line;
  const characters = [...line];
  while (characters.length && columns(`${characters.join("")}…`) > width) characters.pop();
  return width < 1 ? "" : `${characters.join("")}…`;
}

/** Columns that text takes on a terminal: two for East Asian wide characters and emoji, none for combining marks. */
function columns(text: string): number {
  let width = 0;
  for (const character of text) {
    if (/\p{Mark}|\u200d/u.test(character)) continue;
    const wide =
      /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
    width += wide.test(character) ? 2 : 1;
  }
  return width;
}

/** Seconds for people: `0.8 s`, `42 s`, `3 min 05 s`, `2 h 10 min`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (n: number) => String(n).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

/** A number for people: `950`, `12.3k`, `4.56M`, `1.03T`; under 10,000 whole numbers stand as they are. */
export function count(n: number): string {
  const units = ["", "k", "M", "B", "T"];
  if (Math.abs(n) < 10_000) return Number.isInteger(n) ? String(n) : String(Number(n.toPrecision(3)));
  let power = Math.min(units.length - 1, Math.floor(Math.log10(Math.abs(n)) / 3));
  let text = (n / 1000 ** power).toPrecision(3);
  if (Math.abs(Number(text)) >= 1000 && power < units.length - 1) text = (n / 1000 ** ++power).toPrecision(3);
  return `${text}${units[power]}`;
}
