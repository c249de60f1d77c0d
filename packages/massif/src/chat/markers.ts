/** The control tokens of the K2 format, by name. Their ids are the tokenizer's (`special`), so that a small tokenizer of
 *  our own works as K2's does. Source: special-token table of the released tokenizer (kimi-k2.md §7.2). */

export const controls = {
  user: "<|im_user|>",
  assistant: "<|im_assistant|>",
  system: "<|im_system|>",
  middle: "<|im_middle|>",
  end: "<|im_end|>",
  sectionBegin: "<|tool_calls_section_begin|>",
  sectionEnd: "<|tool_calls_section_end|>",
  callBegin: "<|tool_call_begin|>",
  argumentBegin: "<|tool_call_argument_begin|>",
  callEnd: "<|tool_call_end|>",
  think: "<think>",
  thinkEnd: "</think>",
} as const;
export type Control = keyof typeof controls;

/** K2-Instruct's table has no think tokens, and K2 Thinking's is reported both ways: where they are missing, plain text
 *  spells them. */
export const spellable: readonly Control[] = ["think", "thinkEnd"];

/** What a marker means to the parser. `stray` is a control token that no assistant message may hold. */
export type Marker = Exclude<Control, "user" | "assistant" | "system" | "middle"> | "turn" | "stray";

const meanings = new Map<string, Marker>([
  ...(Object.entries(controls) as [Control, string][]).map(([control, name]): [string, Marker] => {
    if (control === "user" || control === "assistant" || control === "system") return [name, "turn"];
    return [name, control === "middle" ? "stray" : control];
  }),
  // A misspelling that models make.
  ["<|tool_call_section_begin|>", "sectionBegin"],
  ["<|tool_call_section_end|>", "sectionEnd"],
  // K2-Instruct's config calls [EOS] the end; practice is <|im_end|>.
  ["[EOS]", "end"],
  ["[EOT]", "end"],
]);

/** The meaning of a special token; one that the format does not know is stray. */
export const meaningOf = (name: string): Marker => meanings.get(name) ?? "stray";

/** Every name that stands for a control token where an engine gives text instead of ids. */
export const spelled: readonly string[] = [
  ...meanings.keys(),
  ...["[BOS]", "[UNK]", "[PAD]", "<|start_header_id|>", "<|end_header_id|>"],
  ...["<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>"],
  ...Array.from({ length: 256 }, (_, i) => `<|reserved_token_${163584 + i}|>`),
];
