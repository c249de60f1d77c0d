/** Moonshot's formulas: small tools that the server runs for a client (`/v1/formulas/{uri}/tools`, `…/fibers`): those that
 *  need nothing but their arguments, and the web search where the operator named one. */
import { randomInt } from "node:crypto";
import type { Hono } from "hono";
import { z } from "zod";
import type { ToolSpec } from "../../chat/index.ts";
import { readFields } from "../body.ts";
import { ApiError, invalid } from "../errors.ts";
import { type App, body, type Ctx, type Env } from "../http.ts";
import { Validator } from "../validate.ts";
import { searchTool } from "./web-search.ts";

type Arguments = Record<string, unknown>;
interface Formula {
  tool: ToolSpec;
  /** Throws an Error whose message the caller gets. */
  run(args: Arguments, signal: AbortSignal): string | Promise<string>;
}

const text = (description: string, more: object = {}) => ({ type: "string", description, ...more });
const formula = (name: string, description: string, properties: object, required: string[], run: Formula["run"]) => ({
  tool: {
    type: "function" as const,
    function: {
      ...{ name, description },
      parameters: { type: "object", properties, required, additionalProperties: false },
    },
  },
  run,
});

/** Units by what they measure, each in the first one's. */
const units: Record<string, number>[] = [
  { m: 1, km: 1000, cm: 0.01, mm: 0.001, in: 0.0254, ft: 0.3048, yd: 0.9144, mi: 1609.344, nmi: 1852 },
  { kg: 1, g: 0.001, mg: 1e-6, t: 1000, lb: 0.45359237, oz: 0.028349523125 },
  { s: 1, ms: 0.001, min: 60, h: 3600, d: 86_400, week: 604_800 },
  { l: 1, ml: 0.001, m3: 1000, gal: 3.785411784, qt: 0.946352946, cup: 0.2365882365 },
  { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 },
  { J: 1, kJ: 1e3, Wh: 3600, kWh: 3.6e6, cal: 4.184, kcal: 4184, eV: 1.602176634e-19 },
  { Pa: 1, kPa: 1e3, bar: 1e5, atm: 101_325, psi: 6894.757293168 },
];
const celsius: Record<string, [into: (x: number) => number, from: (x: number) => number]> = {
  C: [(x) => x, (x) => x],
  F: [(x) => ((x - 32) * 5) / 9, (x) => (x * 9) / 5 + 32],
  K: [(x) => x - 273.15, (x) => x + 273.15],
};

function convert(value: number, from: string, to: string): number {
  const [warm, cold] = [celsius[from], celsius[to]];
  if (warm && cold) return cold[1](warm[0](value));
  const family = units.find((family) => from in family);
  if (!family || !(to in family)) throw new Error(`there is no conversion from ${from} to ${to}`);
  return (value * family[from]!) / family[to]!;
}

const formulas: Record<string, (app: App) => Formula[]> = {
  "moonshot/date": ({ unixTime }) => [
    formula(
      "date",
      "The date and time of now.",
      { timezone: text("An IANA name. Default UTC.") },
      [],
      ({ timezone }) => {
        const now = new Date(unixTime() * 1000);
        const timeZone = String(timezone ?? "UTC");
        const shown = new Intl.DateTimeFormat("sv-SE", { timeZone, dateStyle: "short", timeStyle: "medium" }).format(
          now,
        );
        const weekday = new Intl.DateTimeFormat("en", { timeZone, weekday: "long" }).format(now);
        return JSON.stringify({ datetime: shown, weekday, timezone: timeZone, unix: Math.floor(now.getTime() / 1000) });
      },
    ),
  ],
  "moonshot/base64": () => [
    formula("base64_encode", "Text to base64 of its UTF-8.", { text: text("Text.") }, ["text"], (args) =>
      Buffer.from(String(args.text)).toString("base64"),
    ),
    formula("base64_decode", "Base64 to the text that it holds.", { data: text("Base64.") }, ["data"], (args) =>
      new TextDecoder("utf-8", { fatal: true }).decode(Buffer.from(String(args.data), "base64")),
    ),
  ],
  "moonshot/convert": () => [
    formula(
      "convert",
      "Converts between units: lengths, masses, times, volumes, data, energies, pressures, temperatures (C, F, K).",
      { value: { type: "number" }, from_unit: text("As m, kg, h, MiB, kWh, F."), to_unit: text("The same kind.") },
      ["value", "from_unit", "to_unit"],
      (args) => String(convert(Number(args.value), String(args.from_unit), String(args.to_unit))),
    ),
  ],
  "moonshot/random-choice": () => [
    formula(
      "random_choice",
      "One of the candidates, each as likely.",
      { candidates: { type: "array", items: { type: "string" }, minItems: 1, maxItems: 1000 } },
      ["candidates"],
      ({ candidates }) => (candidates as string[])[randomInt((candidates as string[]).length)]!,
    ),
  ],
  "moonshot/rethink": () => [
    formula("rethink", "A place to put thoughts in order.", { thought: text("A thought.") }, ["thought"], (args) =>
      String(args.thought),
    ),
  ],
  "moonshot/web-search": ({ search }) => {
    if (!search)
      throw new ApiError(400, "web-search: this server searches nothing; its operator may start it with --search URL", {
        code: "unsupported",
      });
    const run: Formula["run"] = async ({ query }, signal) =>
      JSON.stringify({ results: await search(String(query), signal) });
    return [{ tool: { type: "function", function: searchTool }, run }];
  },
};

const FiberBody = z.object({
  name: z.string(),
  arguments: z.union([z.string(), z.record(z.string(), z.unknown())], "the call's arguments, as text or an object"),
});

export function formulaRoutes(hono: Hono<Env>, app: App): void {
  const validator = new Validator();
  const find = (c: Ctx): Formula[] => {
    const uri = `${c.req.param("space")}/${c.req.param("name")}`;
    const [name, tag = "latest"] = uri.split(":");
    const made = tag === "latest" && Object.hasOwn(formulas, name!) ? formulas[name!] : undefined;
    if (made) return made(app);
    throw new ApiError(404, `there is no formula ${uri.slice(0, 100)}, but ${Object.keys(formulas).join(", ")}`);
  };
  hono.get("/v1/formulas/:space/:name/tools", (c) =>
    c.json({ object: "list", tools: find(c as Ctx).map(({ tool }) => tool) }),
  );
  hono.post("/v1/formulas/:space/:name/fibers", async (c) => {
    const all = find(c as Ctx);
    const fields = readFields(FiberBody, await body(c as Ctx, app));
    const found = all.find(({ tool }) => tool.function?.name === fields.name);
    if (!found) throw invalid("name", `not a tool of this formula`);
    const input = typeof fields.arguments === "string" ? fields.arguments : JSON.stringify(fields.arguments);
    const wrong = validator.check([found.tool], fields.name, input);
    if (wrong !== undefined) throw invalid("arguments", wrong);
    const fiber = { id: `fiber-${app.newId()}`, object: "fiber", created_at: app.unixTime(), name: fields.name };
    // The minute's requests of a key are counted as elsewhere.
    const leave = c.get("key")?.enter(Date.now());
    try {
      const output = await found.run(JSON.parse(input) as Arguments, c.req.raw.signal);
      return c.json({ ...fiber, status: "succeeded", context: { input, output } });
    } catch (error) {
      const message = fields.name === "web_search" ? "the search failed" : (error as Error).message;
      return c.json({ ...fiber, status: "failed", error: message, context: { input, error: message } });
    } finally {
      leave?.();
    }
  });
}
