/** The special tokens that a tokenizer of ours gets, in this order, after the ordinary tokens: Kimi K2's names (spec
 *  §7.2) and flags. `special: false` means that decoding with `skipSpecial` keeps the token, which the parser of tool
 *  calls and reasoning relies on. */
export const k2Specials: readonly { name: string; special: boolean }[] = [
  { name: "[BOS]", special: true },
  { name: "[EOS]", special: true },
  { name: "<|im_end|>", special: true },
  { name: "<|im_user|>", special: true },
  { name: "<|im_assistant|>", special: true },
  { name: "<|im_system|>", special: true },
  { name: "<|im_middle|>", special: true },
  { name: "<|tool_calls_section_begin|>", special: false },
  { name: "<|tool_calls_section_end|>", special: false },
  { name: "<|tool_call_begin|>", special: false },
  { name: "<|tool_call_argument_begin|>", special: false },
  { name: "<|tool_call_end|>", special: false },
  { name: "<think>", special: false },
  { name: "</think>", special: false },
  { name: "[EOT]", special: true },
  { name: "[UNK]", special: true },
  { name: "[PAD]", special: true },
];
