/** The run view in a real Chromium, on run folders that grow while it looks. Skips where there is no Chromium. */
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { trajectory } from "../../massif/src/chat/index.ts";
import { listen } from "../../massif/src/server/listen.ts";
import { Service } from "../../massif/src/server/service.ts";

const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

const row = (step: number, more: object = {}) =>
  `${JSON.stringify({ step, tokens: step * 2048, loss: 8 / Math.sqrt(step), lr: 0.01, gradNorm: 1 + Math.sin(step), maxLogit: 5, clippedHeads: step % 50 === 0 ? 1 : 0, loadImbalance: 2, tokensPerSecond: 9000, seconds: 0.1, ...more })}\n`;

const matrices = (step: number) => ({
  expertLoad: [
    [0.4, 0.1, 0.25, 0.25],
    [0.25, 0.25, 0.25, 0.25],
  ],
  maxLogits: [
    [3, 14],
    [2, step % 20 ? 4 : 13],
  ],
  maxLogitsAfter: [
    [3, 12],
    [2, step % 20 ? 4 : 12],
  ],
});

const episode = (success: boolean, world: string) =>
  trajectory({
    messages: [
      { role: "system", content: "You keep a ledger." },
      { role: "user", content: `Send ann 3 (${world}).` },
      {
        role: "assistant",
        content: "",
        reasoning_content: "I should read first.",
        tool_calls: [
          { id: "functions.read:0", type: "function", function: { name: "read", arguments: '{"account":"ann"}' } },
        ],
      },
      { role: "tool", tool_call_id: "functions.read:0", name: "read", content: '{"balance":4}' },
      { role: "assistant", content: success ? "Done." : "No." },
    ],
    tools: [],
    task: { world, version: "1+0", seed: 7, goal: "transfer" },
    reward: {
      total: success ? 0.9 : 0,
      ...(!success && { why: "require: ann has 4, not 7" }),
      components: {
        outcome: { value: success ? 1 : 0, weight: 1, kind: "verifiable", evaluator: "1+0" },
        length: { value: -0.1, weight: 1, kind: "budget", evaluator: "rl" },
      },
    },
    verification: {
      ...{ initialHash: "a", finalHash: "b", goals: { require: success, speech: null }, told: { tell: true } },
      ...{ unchanged: true, allowed: true, replayed: true },
      diff: [{ path: "account/ann/balance", before: 4, after: 7 }],
    },
    tokens: {
      ...{ tokenizer: "elsewhere", template: "instruct", ids: [5, 6, 7], sources: ["user", "assistant", "assistant"] },
      logprobs: [null, -0.1, -2.5],
      turns: [{ message: 4, start: 1, end: 3, finish: "stop" }],
    },
  });

describe.skipIf(!executablePath)("the run view", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath!, args: ["--no-sandbox"] });
  });
  afterAll(() => browser?.close());

  function folder() {
    const root = join(mkdtempSync(join(tmpdir(), "massif-studio-")), "runs");
    onTestFinished(() => rmSync(join(root, ".."), { recursive: true }));
    const make = (name: string, config: object, rows: string) => {
      const dir = join(root, name);
      mkdirSync(join(dir, "rollouts"), { recursive: true });
      writeFileSync(join(dir, "config.json"), JSON.stringify(config));
      writeFileSync(join(dir, "metrics.jsonl"), rows);
      return dir;
    };
    return { root, make };
  }

  async function open(root: string, { hash = "", colors = "light" as "light" | "dark", width = 1280, port = 0 } = {}) {
    const server = await listen({ service: new Service(), runs: [root], port, grace: 0 });
    const context = await browser.newContext({ colorScheme: colors, viewport: { width, height: 900 } });
    const page = await context.newPage();
    const complaints: string[] = [];
    const asked: string[] = [];
    page.on("pageerror", ({ message }) => complaints.push(message));
    page.on("request", (request) => asked.push(request.url()));
    onTestFinished(async () => {
      await context.close();
      await server.close();
    });
    await page.goto(`${server.url}/runs${hash}`);
    await page.getByText("Live", { exact: true }).waitFor();
    return { server, page, complaints, asked };
  }

  const chart = (page: Page, name: string) => page.getByRole("region", { name, exact: true });
  const values = (page: Page, name: string) => chart(page, name).locator(".value").allTextContents();
  const rows = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => row(from + i)).join("");

  test("shows rows as they are written, and goes on after the server was away", async () => {
    const { root, make } = folder();
    const dir = make("one", { heldOut: {}, steps: 100, optimizer: { qkClip: 12 } }, rows(1, 4));
    const { server, page, complaints } = await open(root);
    await expect.poll(() => values(page, "Loss, nats a token")).toEqual(["4"]);
    appendFileSync(join(dir, "metrics.jsonl"), row(16, { evalLoss: 2.5 }));
    await expect.poll(() => values(page, "Loss, nats a token")).toEqual(["2", "2.5"]);
    const port = Number(new URL(server.url).port);
    await server.close();
    await page.getByText("Connection lost, trying again").waitFor();
    appendFileSync(join(dir, "metrics.jsonl"), row(64));
    const again = await listen({ service: new Service(), runs: [root], port, grace: 0 });
    onTestFinished(() => again.close());
    await page.getByText("Live", { exact: true }).waitFor();
    await expect.poll(() => values(page, "Loss, nats a token")).toEqual(["1", "2.5"]);
    // The run goes back to step 4: what came after it is gone.
    writeFileSync(join(dir, "metrics.jsonl"), rows(1, 4));
    await expect.poll(() => values(page, "Loss, nats a token")).toEqual(["4"]);
    expect(complaints).toEqual([]);
  });

  test("several runs on one chart; a line is taken out and put back; by keyboard, told to screen readers", async () => {
    const { root, make } = folder();
    make("one", { heldOut: {} }, rows(1, 100));
    make(
      "two",
      { groupSize: 4 },
      Array.from({ length: 20 }, (_, i) =>
        row(i + 1, { reward: i / 20, "success/act": 0.5, "success/refuse": 0.25 }),
      ).join(""),
    );
    const { page, complaints, asked, server } = await open(root, { hash: "#runs=runs/one" });
    // The list of runs may be long: the keyboard need not go through it.
    await page.getByRole("button", { name: "Skip to the runs shown" }).focus();
    await page.keyboard.press("Enter");
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("Curves");
    await page.getByRole("checkbox", { name: /two/ }).check();
    const grad = chart(page, "Gradient norm");
    await expect.poll(() => grad.locator(".name").allTextContents()).toEqual(["one", "two"]);
    await expect.poll(() => values(page, "Success, by what is asked")).toEqual(["0.5", "0.25"]);
    expect(page.url()).toContain(encodeURIComponent("runs/one,runs/two"));
    const line = grad.getByRole("button", { name: "two: shown" });
    await line.click();
    expect(await line.getAttribute("aria-pressed")).toBe("false");
    const log = grad.getByRole("button", { name: "log" });
    expect(await log.getAttribute("aria-pressed")).toBe("true");
    const plot = chart(page, "Loss, nats a token").getByRole("group");
    await plot.focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowRight");
    await expect
      .poll(() => chart(page, "Loss, nats a token").getByRole("status").textContent())
      .toBe("step 2: one 5.657, two 5.657");
    // The cursor is in all charts at once.
    expect(await grad.locator(".cursor").isVisible()).toBe(true);
    // A chart ends where its own runs do.
    const success = chart(page, "Success, by what is asked");
    await success.getByRole("group").focus();
    await page.keyboard.press("End");
    await expect
      .poll(() => success.getByRole("status").textContent())
      .toBe("step 20: two · act 0.5, two · refuse 0.25");
    await page.keyboard.press("+");
    await page.getByRole("button", { name: "Show all" }).click();
    await page.getByRole("combobox", { name: "Over" }).selectOption("tokens");
    await plot.focus();
    await page.keyboard.press("End");
    await expect
      .poll(() => chart(page, "Loss, nats a token").getByRole("status").textContent())
      .toBe("204,800 tokens: one 0.8, two –");
    await page.getByLabel("Find a metric").fill("gradi");
    await expect.poll(() => page.locator(".chart").count()).toBe(1);
    expect(asked.filter((url) => !url.startsWith(server.url))).toEqual([]);
    expect(complaints).toEqual([]);
  });

  test("a long list of runs is searched by words of their names and kinds; what is shown stays in it", async () => {
    const { root, make } = folder();
    make("ledger-sft", { heldOut: {} }, rows(1, 2));
    for (const seed of [1, 2, 3, 4, 5, 6, 7, 8, 9]) make(`ledger-rl-${seed}`, { groupSize: 4 }, rows(1, 2));
    make("bank-rl-1", { groupSize: 4 }, rows(1, 2));
    const { page, complaints } = await open(root, { hash: "#runs=runs/ledger-sft" });
    const names = () => page.locator(".runs .name").allTextContents();
    await expect.poll(async () => (await names()).length).toBe(11);
    const search = page.getByLabel("Find a run");
    await search.fill("BANK rl");
    await expect.poll(names).toEqual(["bank-rl-1", "ledger-sft"]);
    await page.getByRole("checkbox", { name: /bank/ }).check();
    await search.fill("rl-9");
    await expect.poll(names).toEqual(["bank-rl-1", "ledger-rl-9", "ledger-sft"]);
    await search.fill("");
    await expect.poll(async () => (await names()).length).toBe(11);
    await page.getByRole("checkbox", { name: /bank/ }).uncheck();
    await page.getByRole("checkbox", { name: /sft/ }).uncheck();
    await search.fill("nowhere");
    await page.getByText("No run is called that.").waitFor();
    expect(complaints).toEqual([]);
  });

  test("experts and heads cell by cell, what was clipped, and what the guard did", async () => {
    const { root, make } = folder();
    const dir = make(
      "one",
      { heldOut: {}, optimizer: { qkClip: 12 } },
      Array.from({ length: 40 }, (_, i) => row(10 * (i + 1), matrices(10 * (i + 1)))).join(""),
    );
    writeFileSync(
      join(dir, "events.jsonl"),
      `${JSON.stringify({ event: "skip", step: 30, trouble: "the loss is NaN", documents: ["a", "b"] })}\n`,
    );
    const { page, complaints } = await open(root);
    await page.getByRole("row", { name: "30 skip trouble the loss is NaN · a, b" }).waitFor();
    await page.getByRole("tab", { name: "Experts" }).click();
    const experts = page.getByRole("region", { name: "MoE layer 1" });
    await expect
      .poll(() => experts.locator(".said").textContent())
      .toContain("Now expert 0 has most, 1.6 × the mean, and expert 1 least, 0.4 ×");
    const heads = page.getByRole("region", { name: "Layer 2", exact: true });
    expect(await heads.locator(".said").textContent()).toContain("clipped 20 times");
    await heads.getByRole("group").focus();
    await page.keyboard.press("ArrowDown");
    await expect.poll(() => heads.locator(".said").textContent()).toBe("head 1, step 400: 13, clipped");
    await page.keyboard.press("ArrowLeft");
    await expect.poll(() => heads.locator(".said").textContent()).toBe("head 1, step 390: 4");
    expect(complaints).toEqual([]);
  });

  test("episodes: filtered, read, their verdict, reward and tokens", async () => {
    const { root, make } = folder();
    const dir = make("one", { groupSize: 4 }, rows(1, 4));
    const kept = [episode(true, "ledger"), episode(false, "ledger"), episode(false, "bank")];
    writeFileSync(join(dir, "rollouts/step-4.jsonl"), kept.map((one) => `${JSON.stringify(one)}\n`).join(""));
    const { page, complaints } = await open(root, { hash: "#runs=runs/one&tab=episodes" });
    const list = page.getByRole("list", { name: "Episodes" }).getByRole("button");
    await expect.poll(() => list.count()).toBe(3);
    const shown = page.getByRole("article", { name: "Episode" });
    expect(await shown.textContent()).toContain("✓ Success reward 0.9");
    expect(await shown.textContent()).toContain("I should read first.");
    expect(await shown.getByRole("region", { name: "Call of read" }).textContent()).toBe(
      'readfunctions.read:0{ "account": "ann" }Result{ "balance": 4 }',
    );
    const verdict = shown.getByRole("region", { name: "Verdict" });
    expect(await verdict.getByRole("row").allTextContents()).toEqual([
      "account/ann/balance4→7",
      "outcome1verifiable",
      "length-0.1budget",
    ]);
    expect(await verdict.getByRole("listitem").allTextContents()).toContain("✓the world is as was asked: yes");
    await shown.getByText("2 tokens · ln p -2.60, -1.300 a token").click();
    await shown.getByRole("group", { name: "Tokens" }).focus();
    await page.keyboard.press("ArrowRight");
    expect(await shown.locator(".token-detail").textContent()).toContain("8.2 % · ln p -2.500 · token 2 of 2");
    await page.getByLabel("Outcome").selectOption("fail");
    await expect.poll(() => list.count()).toBe(2);
    await page.getByLabel("World").selectOption("bank");
    await expect.poll(() => list.count()).toBe(1);
    expect(await shown.textContent()).toContain("✗ Failed");
    expect(await verdict.textContent()).toContain("Verdictrequire: ann has 4, not 7");
    expect(complaints).toEqual([]);
  });

  test("light and dark; on a phone nothing scrolls sideways; everything has a name", async () => {
    const { root, make } = folder();
    make("a-run-with-a-long-name-that-goes-on-and-on-and-on", { heldOut: {} }, rows(1, 50));
    make("two", { heldOut: {} }, rows(1, 50));
    const { page } = await open(root, {
      colors: "dark",
      width: 390,
      hash: "#runs=runs/two,runs/a-run-with-a-long-name-that-goes-on-and-on-and-on",
    });
    const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    expect(await ground()).toBe("rgb(22, 24, 27)");
    /** Whether the canvas has this colour. */
    const drawn = (ink: string) =>
      page.evaluate((ink) => {
        const canvas = document.querySelector("canvas")!;
        const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
        return Array.from({ length: data.length / 4 }, (_, i) => [...data.slice(4 * i, 4 * i + 4)].join()).includes(
          ink,
        );
      }, ink);
    await expect.poll(() => drawn("240,160,85,255")).toBe(true);
    await page.getByRole("button", { name: "Light colours" }).click();
    await expect.poll(ground).toBe("rgb(251, 250, 248)");
    await expect.poll(() => drawn("194,96,15,255")).toBe(true);
    for (const tab of ["Experts", "Episodes", "Samples", "Curves"]) {
      await page.getByRole("tab", { name: tab }).click();
      const over = await page.evaluate(() => {
        const main = document.querySelector("main")!;
        return [document.documentElement.scrollWidth - innerWidth, main.scrollWidth - main.clientWidth];
      });
      expect(over, tab).toEqual([0, 0]);
    }
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, select, [tabindex='0']")]
        .filter(
          (e) => !(e.getAttribute("aria-label") || e.textContent?.trim() || (e as HTMLInputElement).labels?.length),
        )
        .map((e) => e.outerHTML.slice(0, 80)),
    );
    expect(nameless).toEqual([]);
  });

  test("10⁵ rows: the figures of this machine", async () => {
    const { root, make } = folder();
    const noise = (step: number) => ({
      loss: 8 / step ** 0.1 + Math.sin(step * 12.9898) / 5,
      ...(step % 10 ? {} : matrices(step)),
    });
    const dir = make(
      "long",
      { heldOut: {}, optimizer: { qkClip: 12 } },
      Array.from({ length: 1e5 }, (_, i) => row(i + 1, noise(i + 1))).join(""),
    );
    const began = performance.now();
    const { page } = await open(root, { hash: "#runs=runs/long" });
    const loaded = performance.now() - began;
    await expect.poll(() => page.evaluate(() => performance.getEntriesByName("draw").length)).toBeGreaterThan(0);
    // The last row is there, and a peak of one row among 10⁵ is on the canvas.
    expect(await values(page, "Gradient norm")).toEqual([(1 + Math.sin(1e5)).toPrecision(4).replace(/0+$/, "")]);
    const measured = await page.evaluate(async () => {
      const plot = document.querySelector<HTMLElement>(".plot")!;
      const { left, width, top } = plot.getBoundingClientRect();
      const frame = () => new Promise<number>(requestAnimationFrame);
      performance.clearMeasures();
      const gaps: number[] = [];
      for (let i = 0, last = await frame(); i < 60; i++) {
        plot.dispatchEvent(
          new PointerEvent("pointermove", { clientX: left + (width * (i + 1)) / 62, clientY: top + 20, bubbles: true }),
        );
        const now = await frame();
        gaps.push(now - last);
        last = now;
      }
      const slider = document.querySelector<HTMLInputElement>("input[type=range]")!;
      const redraws: number[] = [];
      for (let i = 0; i < 30; i++) {
        slider.value = String(0.005 * (i + 5));
        const start = performance.now();
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        await frame();
        await frame();
        redraws.push(performance.now() - start);
      }
      plot.dispatchEvent(new PointerEvent("pointerleave"));
      const draws = performance.getEntriesByName("draw").map(({ duration }) => duration);
      return { gaps, redraws, draws, charts: document.querySelectorAll(".chart").length };
    });
    const middle = (list: number[]) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]!.toFixed(1);
    const most = (list: number[]) => Math.max(...list).toFixed(1);
    const before = await page.evaluate(() => performance.getEntriesByName("draw").length);
    const appended = performance.now();
    appendFileSync(join(dir, "metrics.jsonl"), row(200_000, { loss: 1.5 }));
    await expect.poll(() => values(page, "Loss, nats a token"), { interval: 20 }).toEqual(["1.5"]);
    const shown = performance.now() - appended;
    expect(await page.evaluate(() => performance.getEntriesByName("draw").length)).toBeGreaterThanOrEqual(before);
    console.log(
      `run view, 10^5 rows × ${measured.charts} charts: all there after ${(loaded / 1000).toFixed(2)} s; ` +
        `frame while the cursor moves, median ${middle(measured.gaps)} ms, longest ${most(measured.gaps)} ms; ` +
        `redraw of all charts in sight, median ${middle(measured.draws)} ms, longest ${most(measured.draws)} ms (n ${measured.draws.length}); ` +
        `smoothing changed to drawn, median ${middle(measured.redraws)} ms; a new row seen after ${shown.toFixed(0)} ms`,
    );
  }, 120_000);
});
