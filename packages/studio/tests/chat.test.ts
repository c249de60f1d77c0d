/** The studio in a real Chromium against a running server with a scripted model. Skips where there is no Chromium. */
import { existsSync } from "node:fs";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { ChatRequest, Turn } from "../../massif/src/llm/index.ts";
import { type Format, renderPrompt } from "../../massif/src/server/backend.ts";
import { scripted, weather } from "../../massif/src/server/testing.ts";
import { k2Specials, Tokenizer } from "../../massif/src/tokenizer/index.ts";

const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

const tokenizer = new Tokenizer({
  tokens: Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  specials: k2Specials.map((special, i) => ({ ...special, id: 256 + i })),
});
const format: Format = { tokenizer, template: "thinking" };

describe.skipIf(!executablePath)("the chat page", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executablePath!, args: ["--no-sandbox"] });
  });
  afterAll(() => browser?.close());

  /** A page on a server that says the script. What the page complains about fails its test. */
  async function open(
    script: Turn[],
    more: Parameters<typeof scripted>[1] & { colors?: "light" | "dark"; width?: number; touch?: boolean } = {},
  ) {
    const { colors = "light", width = 1000, touch = false, ...options } = more;
    const backend = { format, contextLength: 4096, prompt: (request: ChatRequest) => renderPrompt(format, request) };
    const server = await scripted(script, { debug: true, backend, ...options });
    const context = await browser.newContext({
      colorScheme: colors,
      viewport: { width, height: 800 },
      ...(touch && { hasTouch: true, isMobile: true }),
    });
    const page = await context.newPage();
    const complaints: string[] = [];
    const asked: string[] = [];
    page.on("pageerror", ({ message }) => complaints.push(message));
    page.on("console", (line) => line.type() === "error" && complaints.push(line.text()));
    page.on("request", (request) => asked.push(request.url()));
    onTestFinished(async () => {
      await context.close();
      await server.close();
    });
    await page.goto(server.url);
    await page.getByText("m is listening.").waitFor();
    return { server, page, complaints, asked };
  }
  const say = async (page: Page, text: string) => {
    await page.getByRole("textbox", { name: "Message" }).fill(text);
    await page.keyboard.press("Enter");
  };
  const answer = (page: Page, index = 0) => page.getByRole("article", { name: "Answer" }).nth(index);

  test("sends a message, shows the stream, folds the reasoning, tells what it cost", async () => {
    const usage = { promptTokens: 1200, completionTokens: 30, cachedTokens: 1024 };
    const turn: Turn = {
      reasoning: "They greet me.",
      text: "Hello **you**, welcome.\n\n- one\n- two",
      usage,
      pause: 30,
    };
    const { server, page, complaints, asked } = await open([turn]);
    await page.getByRole("textbox", { name: "Message" }).fill("Hi <there>");
    await page.getByText(/^\d\d of 4,096 tokens$/).waitFor();
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Stop" }).waitFor();
    // Words that end the message are not there while its beginning is.
    await page.waitForFunction(() => /Hel/.test(document.querySelector(".answer")?.textContent ?? ""));
    expect(await answer(page).textContent()).not.toContain("two");
    await page.getByText("1,200 tokens in · 1,024 cached · 30 out").waitFor();
    expect(await answer(page).locator("strong").textContent()).toBe("you");
    expect(await answer(page).locator("li").allTextContents()).toEqual(["one", "two"]);
    const thought = page.getByText("They greet me.");
    expect(await thought.isVisible()).toBe(false);
    await page.getByText("Reasoning · 3 words").click();
    expect(await thought.isVisible()).toBe(true);
    expect(server.model.requests.map(({ messages }) => messages)).toEqual([[{ role: "user", content: "Hi <there>" }]]);
    expect(complaints).toEqual([]);
    // Works offline: nothing is asked of anyone else.
    expect(asked.filter((url) => !url.startsWith(server.url))).toEqual([]);
  });

  test("a person plays the tool, and the model goes on with the result", async () => {
    const script: Turn[] = [
      { reasoning: "I look.", calls: [{ name: "get_weather", arguments: { city: "Oslo" } }] },
      { text: "4 degrees." },
    ];
    const { server, page, complaints } = await open(script);
    await page.getByRole("button", { name: "Settings" }).click();
    const tools = page.getByLabel("Tools");
    await tools.fill('[{"type": "function", "function": {}}]');
    await page.getByText("tools[0].function.name: is missing").waitFor();
    await tools.fill("[{]");
    await page.getByText("not JSON: ").waitFor();
    await page.getByRole("textbox", { name: "Message" }).fill("?");
    expect(await page.getByRole("button", { name: "Send" }).isDisabled()).toBe(true);
    await tools.fill(JSON.stringify([weather]));
    await page.getByLabel("Temperature").fill("0.5");
    await page.getByLabel("System prompt").fill("Be brief.");
    await say(page, "Oslo?");
    const call = page.getByRole("region", { name: "Call of get_weather" });
    expect(await call.locator("pre").textContent()).toBe('{ "city": "Oslo" }');
    await call.getByLabel("You are the tool").fill('{"celsius": 4}');
    await call.getByRole("button", { name: "Return result" }).click();
    await page.getByText("4 degrees.").waitFor();
    expect(server.model.requests[1]).toMatchObject({
      tools: [weather],
      sampling: { temperature: 0.5 },
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Oslo?" },
        {
          role: "assistant",
          reasoning_content: "I look.",
          tool_calls: [
            { id: "functions.get_weather:0", function: { name: "get_weather", arguments: '{"city":"Oslo"}' } },
          ],
        },
        { role: "tool", tool_call_id: "functions.get_weather:0", content: '{"celsius": 4}' },
      ],
    });
    expect(complaints).toEqual([]);
  });

  test("what a model writes stays text", async () => {
    const attack = [
      "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">",
      "[click](javascript:document.title='owned') ![x](http://192.0.2.1/x.png) <b>bold</b>",
      "```html\n<svg onload=\"document.title='owned'\">\n```",
    ].join("\n\n");
    const { page, complaints, asked, server } = await open([
      { text: attack, reasoning: "<img src=y onerror=alert(1)>" },
    ]);
    await say(page, attack);
    await page.getByRole("button", { name: "Regenerate" }).waitFor();
    const seen = (await answer(page).locator(".markdown").textContent())!;
    for (const part of ["<script>document.title = 'owned'</script>", "<b>bold</b>", "<svg onload="])
      expect(seen).toContain(part);
    expect(await page.locator("main :is(script, img, a, b, iframe, form)").count()).toBe(0);
    expect(await page.title()).toBe("Massif");
    expect(asked.filter((url) => !url.startsWith(server.url))).toEqual([]);
    expect(complaints).toEqual([]);
    // Were it HTML after all, the page's policy would still not run it.
    const run = await page.evaluate(() => {
      const script = document.createElement("script");
      try {
        script.textContent = "document.title = 'owned'";
      } catch {}
      document.body.append(script);
      return document.title;
    });
    expect(run).toBe("Massif");
  });

  test("stop, regenerate, edit", async () => {
    const script: Turn[] = [{ text: "endless ".repeat(2000), pause: 5 }, { text: "second" }, { text: "third" }];
    const { server, page } = await open(script);
    await say(page, "first");
    await page.getByText("endless").waitFor();
    await page.keyboard.press("Escape");
    await page.getByText("stopped").waitFor();
    await page.getByRole("button", { name: "Regenerate" }).click();
    await page.getByText("second").waitFor();
    await page.getByRole("article", { name: "You" }).hover();
    await page.getByRole("button", { name: "Edit" }).click();
    await page.getByRole("textbox", { name: "Edit your message" }).fill("other");
    await page.keyboard.press("Enter");
    await page.getByText("third").waitFor();
    const said = server.model.requests.map(({ messages }) => messages.map(({ content }) => content));
    expect(said).toEqual([["first"], ["first"], ["other"]]);
    expect(await page.getByRole("article").count()).toBe(2);
  });

  test("errors say what to do, and retrying helps", async () => {
    const { page } = await open([{ text: "begun", error: new Error("secret path") }, { text: "fine" }]);
    await say(page, "Hi");
    const alert = page.getByRole("alert");
    await alert.waitFor();
    expect(await alert.textContent()).toContain("its log tells more");
    expect(await page.getByText("begun").isVisible()).toBe(true);
    await alert.getByRole("button", { name: "Retry" }).click();
    await page.getByText("fine").waitFor();
    expect(await alert.count()).toBe(0);
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("More fields").fill('{"colour": 3}');
    await say(page, "again");
    await alert.waitFor();
    expect(await alert.textContent()).toContain("HTTP 400 · unknown_parameter · colour");
  });

  test("nothing is remembered unless asked for", async () => {
    const { page } = await open([{ text: "one" }]);
    const stored = () => page.evaluate(() => JSON.stringify({ ...localStorage }));
    await say(page, "Hi");
    await page.getByRole("button", { name: "Regenerate" }).waitFor();
    expect(await stored()).toBe("{}");
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Key", { exact: true }).fill("sk-secret");
    await page.getByLabel("Remember in this browser").check();
    expect(await stored()).not.toContain("sk-secret");
    await page.reload();
    await page.getByText("one").waitFor();
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Remember in this browser").uncheck();
    expect(await stored()).toBe("{}");
  });

  test("log-probabilities by keyboard; the prompt; curl", async () => {
    const { page, server } = await open([]);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    const token = (token: string, logprob: number, top: [string, number][]) => ({
      ...{ token, logprob, bytes: [...Buffer.from(token)] },
      top_logprobs: top.map(([token, logprob]) => ({ token, logprob, bytes: [...Buffer.from(token)] })),
    });
    // The script tells no tokens: the answer comes from here.
    const chunk = (choice: object, more: object = {}) =>
      `data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, ...choice }], ...more })}\n\n`;
    await page.route("**/v1/chat/completions", (route) =>
      route.fulfill({
        contentType: "text/event-stream",
        body:
          chunk({
            delta: { content: "It’s cold" },
            logprobs: {
              content: [
                token("It’s", Math.log(0.5), [
                  ["It’s", Math.log(0.5)],
                  ["The", Math.log(0.25)],
                ]),
                token(" cold", Math.log(0.02), [[" warm", Math.log(0.9)]]),
              ],
            },
          }) +
          chunk(
            { finish_reason: "stop" },
            { explain: { prompt: "<|im_user|>user", prompt_ids: [1, 2], queue_ms: 0 } },
          ) +
          "data: [DONE]\n\n",
      }),
    );
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByLabel("Log-probabilities").check();
    await page.getByLabel("Prompt", { exact: false }).last().check();
    await say(page, "What's it like?");
    await page.getByRole("button", { name: "Tokens" }).click();
    const detail = page.locator(".token-detail");
    expect(await detail.textContent()).toContain("It’s 50 % · ln p -0.693 · token 1 of 2");
    await page.getByRole("group", { name: "Tokens" }).focus();
    await page.keyboard.press("ArrowRight");
    expect(await detail.textContent()).toContain("␣cold 2.0 %");
    expect(await detail.textContent()).toContain("␣warm90 %");
    await page.getByText("What the model was given", { exact: true }).click();
    expect(await page.locator(".explain").textContent()).toContain("<|im_user|>user1 2");
    await page.getByRole("button", { name: "curl" }).click();
    await page.getByText("curl command copied").waitFor();
    const command = await page.evaluate(() => navigator.clipboard.readText());
    expect(command).toContain(`curl -N ${server.url}/v1/chat/completions`);
    expect(command).toContain("What'\\''s it like?");
    expect(command).toContain('"top_logprobs": 5');
  });

  test("a server that cannot count tokens is not asked to", async () => {
    const { page, complaints, asked } = await open([{ text: "fine" }], { backend: {} });
    await page.getByRole("textbox", { name: "Message" }).fill("Hi");
    // Longer than the page waits after the last key.
    await page.waitForTimeout(500);
    await page.keyboard.press("Enter");
    await page.getByText("fine").waitFor();
    expect(asked.filter((url) => url.includes("tokenize"))).toEqual([]);
    expect(complaints).toEqual([]);
  });

  test("the keyboard stays in the conversation when its button goes", async () => {
    const { page } = await open([{ calls: [{ name: "get_weather", arguments: { city: "Oslo" } }] }, { text: "fine" }]);
    const focused = () => page.evaluate(() => document.activeElement?.id);
    await say(page, "Oslo?");
    await page.getByLabel("You are the tool").fill("4");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.getByText("fine").waitFor();
    await expect.poll(focused).toBe("message");
    await page.getByRole("button", { name: "Edit" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("textbox", { name: "Edit your message" }).press("Escape");
    await expect.poll(focused).toBe("message");
  });

  test("with thumbs, Enter is a new line, and the button sends", async () => {
    const { page, server } = await open([{ text: "fine" }], { width: 390, touch: true });
    expect(await page.getByText("Enter sends").count()).toBe(0);
    await page.getByRole("textbox", { name: "Message" }).fill("one");
    await page.keyboard.press("Enter");
    await page.keyboard.type("two");
    await page.getByRole("button", { name: "Send" }).tap();
    await page.getByText("fine").waitFor();
    expect(server.model.requests[0]!.messages).toEqual([{ role: "user", content: "one\ntwo" }]);
  });

  test("dark as the system says, and as one says; no sideways scrolling on a phone", async () => {
    const wide = `${"word".repeat(80)}\n\n\`\`\`\n${"code ".repeat(80)}\n\`\`\`\n\n| a | b |\n|---|---|\n| ${"c".repeat(90)} | d |`;
    const { page } = await open([{ text: wide }], { colors: "dark", width: 360 });
    const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    expect(await ground()).toBe("rgb(22, 24, 27)");
    await page.getByRole("button", { name: "Light colours" }).click();
    await expect.poll(ground).toBe("rgb(251, 250, 248)");
    await say(page, "x".repeat(300));
    await page.getByRole("button", { name: "Regenerate" }).waitFor();
    const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(await overflow()).toBe(0);
    expect(
      await page.evaluate(
        () => document.querySelector("main")!.scrollWidth - document.querySelector("main")!.clientWidth,
      ),
    ).toBe(0);
    await page.getByRole("button", { name: "Settings" }).click();
    const panel = page.getByRole("complementary", { name: "Settings" });
    await panel.waitFor();
    // It lies over all but the header.
    const { y, height } = (await panel.boundingBox())!;
    expect([y < 80, y + height]).toEqual([true, 800]);
    const above = () => page.evaluate(() => document.elementFromPoint(180, 760)?.closest("aside")?.id);
    expect(await above()).toBe("settings");
    expect(await overflow()).toBe(0);
    await page.keyboard.press("Escape");
    await panel.waitFor({ state: "detached" });
  });
});
