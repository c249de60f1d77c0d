/** Grammar-constrained decoding: JSON Schema and K2's tool-call section as exact token masks within a token budget. */
export { compileAside } from "./aside.ts";
export { checkToolSchema, type Verdict } from "./check.ts";
export { Grammar, Matcher, type StartOptions } from "./grammar.ts";
export type { Json } from "./scalars.ts";
export { type Vocabulary, vocabularyOf } from "./trie.ts";
export { type CompileOptions, compileSchema, compileTurn, prepare, type TextFormat, type TurnOptions } from "./turn.ts";
