/** OpenAI's custom tools: their input is a text, free or matching a pattern. K2 calls functions with JSON, so to the model
 *  such a tool is a function of one string, `input`, whose pattern is enforced as any schema's is; the client sees the text
 *  that the string says. */
import { z } from "zod";
import type { ToolSpec } from "../../chat/index.ts";
import { invalid } from "../errors.ts";
import { checkPattern } from "../fields.ts";

const Grammar = z.object({ syntax: z.enum(["lark", "regex"]), definition: z.string().min(1) });
export const CustomTool = z.object({
  name: z.string().min(1),
  description: z.string().nullish(),
  format: z
    .union([
      z.object({ type: z.literal("text") }),
      // Responses has flat what chat nests.
      z.object({ type: z.literal("grammar"), grammar: Grammar }),
      Grammar.extend({ type: z.literal("grammar") }),
    ])
    .nullish(),
});
export type CustomTool = z.output<typeof CustomTool>;

/** The function that stands for a custom tool. Throws 400 for a grammar that a string's schema cannot say. */
export function customFunction({ name, description, format }: CustomTool, param: string): ToolSpec {
  const input: Record<string, unknown> = { type: "string" };
  if (format?.type === "grammar") {
    const { syntax, definition } = "grammar" in format ? format.grammar : format;
    if (syntax !== "regex")
      throw invalid(`${param}.format`, "only syntax regex: what JSON strings can be held to is a pattern");
    checkPattern(definition, `${param}.format.definition`);
    try {
      new RegExp(definition, "u");
    } catch (error) {
      throw invalid(`${param}.format.definition`, (error as Error).message);
    }
    input.pattern = `^(?:${definition})$`;
  }
  const parameters = { type: "object", properties: { input }, required: ["input"], additionalProperties: false };
  return { type: "function", function: { name, ...(description != null && { description }), parameters } };
}

/** The tools of a chat request as functions, and the names of those that are custom. Throws 400. */
export function readCustomTools(tools: readonly ToolSpec[] | undefined): {
  tools: ToolSpec[] | undefined;
  custom: ReadonlySet<string>;
} {
  const custom = new Set<string>();
  const read = tools?.map((tool, i) => {
    if (tool.type !== "custom") return tool;
    const { data, error } = CustomTool.safeParse(tool.custom);
    if (error) throw invalid(`tools[${i}].custom`, error.issues[0]!.message);
    custom.add(data.name);
    return customFunction(data, `tools[${i}].custom`);
  });
  return { tools: read, custom };
}

/** A call's input as the arguments that the model would have written. */
export const inputArguments = (input: string): string => JSON.stringify({ input });

/** The text of `{"input":"…"}` as it comes, however it is cut. */
export class InputReader {
  #held = "";
  #state: "before" | "inside" | "after" = "before";

  push(delta: string): string {
    this.#held += delta;
    if (this.#state === "before") {
      const begun = /^\s*\{\s*"input"\s*:\s*"/.exec(this.#held);
      if (!begun) return "";
      this.#held = this.#held.slice(begun[0].length);
      this.#state = "inside";
    }
    if (this.#state === "after") return "";
    // Whole characters and escapes; the two halves of a surrogate pair stay together.
    const sure =
      /^(?:[^"\\]|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\u(?![dD][89abAB])[\da-fA-F]{4}|\\[^u])*/;
    const [text] = sure.exec(this.#held)!;
    this.#held = this.#held.slice(text.length);
    if (this.#held.startsWith('"')) this.#state = "after";
    // Control characters cannot stand in JSON, but a model that nobody holds may write them.
    return JSON.parse(`"${text.replace(/[\u0000-\u001f]/g, (c) => JSON.stringify(c).slice(1, -1))}"`) as string;
  }
}

/** The input that a call's arguments say, as far as they go. */
export const inputOf = (args: string): string => new InputReader().push(args);
