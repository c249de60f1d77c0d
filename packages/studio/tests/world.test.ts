/** Playing the user of a world in a real Chromium, against a scripted model. Skips where there is no Chromium. */
import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { Turn } from "../../massif/src/llm/index.ts";
import { scripted } from "../../massif/src/server/testing.ts";
import { openWorld, WorldEnvironment } from "../../massif/src/worlds/index.ts";

const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

/** The first seed of a task, with its goal and its facts. */
function taskOf(world: string, name: string) {
  const env = new WorldEnvironment(openWorld(world));
  for (let seed = 0; ; seed++) {
    env.reset(seed);
    const { type, opening, vars, initial } = env.inside.task;
    if (type.name === name) return { seed, opening, vars, initial };
  }
}

describe.skipIf(!executablePath)("the user of a world", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath!, args: ["--no-sandbox"] });
  });
  afterAll(() => browser?.close());

  async function open(
    script: Turn[],
    { worlds = ["ledger", "bank"], seed = "", colors = "light" as "light" | "dark", width = 1000 } = {},
  ) {
    const server = await scripted(script, { worlds });
    const context = await browser.newContext({ colorScheme: colors, viewport: { width, height: 800 } });
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on("pageerror", ({ message }) => complaints.push(message));
    onTestFinished(async () => {
      await context.close();
      await server.close();
    });
    await page.goto(server.url);
    await page.getByText("m is listening.").waitFor();
    if (seed) {
      await page.getByRole("button", { name: "Settings" }).click();
      await page.getByLabel("Seed").fill(seed);
      await page.keyboard.press("Escape");
    }
    return { server, page, complaints };
  }

  test("is told what they want; calls and results come live; the verdict has its reason; then another task", async () => {
    const { seed, opening, initial } = taskOf("ledger", "balance");
    const [account, row] = Object.entries(initial.account!).find(([name]) => opening.toLowerCase().includes(name))!;
    const { page, complaints, server } = await open(
      [
        { calls: [{ name: "read", arguments: { account } }], reasoning: "I look." },
        { text: "Let me think." },
        { text: `It is ${row.balance}.` },
      ],
      { seed: String(seed) },
    );
    await page.getByRole("combobox", { name: "World" }).selectOption("ledger");
    const brief = page.getByRole("region", { name: "Your part" });
    await brief.waitFor();
    expect(await brief.textContent()).toContain(`“${opening}”`);
    await brief.getByRole("button", { name: "Use these words" }).click();
    await expect.poll(() => page.getByRole("textbox", { name: "Message" }).inputValue()).toBe(opening);
    await page.keyboard.press("Enter");
    const call = page.getByRole("region", { name: "Call of read" });
    await call.waitFor();
    await expect.poll(() => call.textContent()).toContain(`"balance": ${row.balance}`);
    expect(await page.getByText("You are the tool").count()).toBe(0);
    await page.getByText("Let me think.").waitFor();
    // What makes no sense here is not offered.
    for (const name of ["Regenerate", "Edit", "curl"]) expect(await page.getByRole("button", { name }).count()).toBe(0);
    await page.getByText("Your turn.").waitFor();
    await page.getByRole("textbox", { name: "Message" }).fill("Well?");
    await page.keyboard.press("Enter");
    await page.getByText(`It is ${row.balance}.`).waitFor();
    await page.getByText("Your turn.").waitFor();
    await page.getByRole("button", { name: "That is all" }).click();
    const verdict = page.getByRole("region", { name: "Verdict" });
    await verdict.waitFor();
    expect(await verdict.textContent()).toContain("✓ Success8 of 8 checks hold");
    expect(await verdict.textContent()).toContain(`ledger, task balance, seed ${seed}`);
    const said = server.model.requests.at(-1)!.messages.map(({ role }) => role);
    // The list is the loop's own: the last answer has joined it since.
    expect(said).toEqual(["system", "user", "assistant", "tool", "assistant", "user", "assistant"]);
    await verdict.getByRole("button", { name: "Another task" }).click();
    await page.getByRole("button", { name: "Use these words" }).waitFor();
    expect(await page.getByRole("article").count()).toBe(0);
    await page.getByRole("combobox", { name: "World" }).selectOption({ label: "Leave the world" });
    await page.getByText("m is listening.").waitFor();
    expect(complaints).toEqual([]);
  });

  test("fails with the reason; on a phone, in the dark, nothing scrolls sideways", async () => {
    const { page, complaints } = await open([{ text: "All done!" }], { colors: "dark", width: 360 });
    await page.getByRole("combobox", { name: "World" }).selectOption("ledger");
    await page.getByRole("button", { name: "Use these words" }).click();
    await page.keyboard.press("Enter");
    await page.getByText("All done!").waitFor();
    await page.getByText("Your turn.").waitFor();
    await page.getByRole("button", { name: "That is all" }).click();
    const verdict = page.getByRole("region", { name: "Verdict" });
    await verdict.waitFor();
    expect(await verdict.textContent()).toMatch(/✗ Failed.*Not so: /);
    const over = await page.evaluate(() => {
      const main = document.querySelector("main")!;
      return [document.documentElement.scrollWidth - innerWidth, main.scrollWidth - main.clientWidth];
    });
    expect(over).toEqual([0, 0]);
    expect(complaints).toEqual([]);
  });

  test("can do what a user of the world can do", async () => {
    const { seed } = taskOf("bank", "large");
    const { page } = await open([{ text: "Please approve the payment in your app." }], { seed: String(seed) });
    await page.getByRole("combobox", { name: "World" }).selectOption("bank");
    const act = page.getByRole("button", { name: "Approve a payment." });
    expect(await act.isDisabled()).toBe(true);
    await page.getByRole("button", { name: "Use these words" }).click();
    await page.keyboard.press("Enter");
    await page.getByText("Please approve the payment").waitFor();
    await act.click();
    await expect
      .poll(() => page.getByRole("textbox", { name: "Message" }).inputValue())
      .toBe("It did not work: nothing_to_approve.");
  });

  test("a server without worlds offers none", async () => {
    const { page } = await open([], { worlds: [] });
    expect(await page.getByRole("combobox", { name: "World" }).count()).toBe(0);
  });
});
