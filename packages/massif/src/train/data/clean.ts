import { createHash } from "node:crypto";
import { z } from "zod";

/** What is done to a document's text before it is tokenized. The defaults suit plain prose. */
export const CleanConfig = z.strictObject({
  unicode: z.enum(["NFC", "none"]).default("NFC").describe("Unicode normal form; none keeps letters as they came."),
  maxBlankLines: z.int().min(0).default(1).describe("Empty lines kept in a row; longer runs are shortened to this."),
  trimSpace: z.boolean().default(true).describe("Remove blank space at line ends and around the document."),
  markdown: z
    .enum(["keep", "strip"])
    .default("keep")
    .describe("strip removes the marks of Markdown prose: headings, emphasis, rules, links, escapes."),
  minChars: z.int().min(1).default(1).describe("Documents shorter than this after cleaning are dropped."),
  dropDuplicates: z.boolean().default(true).describe("Drop a document whose cleaned text has been seen before."),
});
export type CleanConfig = z.output<typeof CleanConfig>;

/** How many documents each rule changed or dropped; characters are UTF-16 code units. */
export interface CleanCounts {
  documents: number;
  kept: number;
  short: number;
  duplicate: number;
  charsIn: number;
  charsOut: number;
  /** Documents changed, by rule. */
  changed: Record<Rule, number>;
}

type Rule = "lineEnds" | "controls" | "surrogates" | "markdown" | "unicode" | "trailingSpace" | "blankLines";

const RULES: {
  rule: Rule;
  when: (config: CleanConfig) => boolean;
  apply: (text: string, config: CleanConfig) => string;
}[] = [
  { rule: "lineEnds", when: () => true, apply: (text) => text.replace(/\r\n?|[\u0085\u2028\u2029\f\v]/g, "\n") },
  // Tab and newline stay; a byte-order mark is dropped wherever files were glued together.
  { rule: "controls", when: () => true, apply: (text) => text.replace(/[\0-\x08\x0e-\x1f\x7f-\x9f\ufeff]/g, "") },
  // A lone half of a pair has no UTF-8 form: it would not survive the tokenizer.
  { rule: "surrogates", when: () => true, apply: (text) => text.toWellFormed() },
  { rule: "markdown", when: (c) => c.markdown === "strip", apply: stripMarkdown },
  { rule: "unicode", when: (c) => c.unicode === "NFC", apply: (text) => text.normalize("NFC") },
  { rule: "trailingSpace", when: (c) => c.trimSpace, apply: (text) => text.replace(/(?<![ \t])[ \t]+$/gm, "").trim() },
  {
    rule: "blankLines",
    when: () => true,
    apply: (text, { maxBlankLines: n }) =>
      text.replace(/\n(?:[ \t]*\n)+/g, (run) => (run.split("\n").length - 2 > n ? "\n".repeat(n + 1) : run)),
  },
];

/** Cleans documents one after another, remembering what it has seen and counting what it did. */
export class Cleaner {
  readonly counts: CleanCounts = {
    documents: 0,
    kept: 0,
    short: 0,
    duplicate: 0,
    charsIn: 0,
    charsOut: 0,
    changed: { lineEnds: 0, controls: 0, surrogates: 0, markdown: 0, unicode: 0, trailingSpace: 0, blankLines: 0 },
  };
  readonly #config: CleanConfig;
  readonly #seen = new Set<string>();

  constructor(config: CleanConfig = CleanConfig.parse({})) {
    this.#config = config;
  }

  /** The cleaned text, or undefined where the document is dropped (too short, or seen before). */
  clean(text: string): string | undefined {
    const { counts } = this;
    counts.documents++;
    counts.charsIn += text.length;
    for (const { rule, when, apply } of RULES) {
      if (!when(this.#config)) continue;
      const after = apply(text, this.#config);
      if (after !== text) counts.changed[rule]++;
      text = after;
    }
    if (text.length < this.#config.minChars) {
      counts.short++;
      return undefined;
    }
    if (this.#config.dropDuplicates) {
      // 120 bits of SHA-256: by the birthday bound, 10⁹ documents meet by chance with probability 10⁻¹⁸.
      const key = createHash("sha256").update(text).digest("base64").slice(0, 20);
      if (this.#seen.has(key)) {
        counts.duplicate++;
        return undefined;
      }
      this.#seen.add(key);
    }
    counts.kept++;
    counts.charsOut += text.length;
    return text;
  }
}

/** Prose from Markdown prose. Code, tables and lists keep their marks: there they carry meaning. */
export function stripMarkdown(text: string): string {
  return text
    .replace(/^[ \t]{0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/gm, "")
    .replace(/^[ \t]{0,3}#{1,6}[ \t]+(.*)$/gm, (_, title: string) =>
      title
        .trim()
        .replace(/(?<=[ \t])#+$/, "")
        .trimEnd(),
    )
    .replace(/^[ \t]{0,3}>[ \t]?/gm, "")
    .replace(/!?\[([^\]\n]*)\]\([^()\n]*\)/g, "$1")
    .replace(/(?<![\w*\\])(\*{1,3})(?=[^\s*])([^*\n]*[^\s*\\])\1(?![\w*])/g, "$2")
    .replace(/(?<![\w\\])(_{1,3})(?=[^\s_])([^_\n]*[^\s_\\])\1(?!\w)/g, "$2")
    .replace(/\\([!-/:-@[-`{-~])/g, "$1")
    .replace(/&(amp|lt|gt|quot|nbsp);/g, (_, name: string) => ENTITIES[name] ?? "");
}

const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: " " };
