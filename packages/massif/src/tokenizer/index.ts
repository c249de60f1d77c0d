export { tokenizerDigest } from "./digest.ts";
export { type LoadOptions, loadTokenizer, saveTokenizer } from "./files.ts";
export { type PatternName, patterns } from "./pattern.ts";
export { k2Specials } from "./special.ts";
export {
  type DecodeOptions,
  type EncodeOptions,
  type SpecialToken,
  type StreamDecoder,
  Tokenizer,
  type TokenizerParts,
} from "./tokenizer.ts";
export { Trainer, type TrainOptions, trainTokenizer } from "./train.ts";
