export { Block, type BlockOutput, type Context, type Products, type Projected, type Weights } from "./block.ts";
export { checkpointTensors, loadModel, saveModel, writeConfig } from "./checkpoint.ts";
export {
  fromHuggingFace,
  isMoe,
  ModelConfig,
  qkHeadDim,
  readConfig,
  routingFits,
  toHuggingFace,
  YarnConfig,
} from "./config.ts";
export { decode, LatentCache } from "./decode.ts";
export { type GenerateOptions, generate, generateGreedy } from "./generate.ts";
export {
  dequantizeInt4,
  hasInt4,
  INT4_GROUP,
  type Int4,
  quantizeInt4,
  readInt4,
} from "./int4.ts";
export { saveInt4 } from "./int4-checkpoint.ts";
export { Model, type ModelOptions } from "./model.ts";
export { type PackedExperts, PackedModel, type PackOptions, packedExperts } from "./packed.ts";
export { type ModelSize, modelSize, numel, type ParameterSpec, parameterSpecs } from "./parameters.ts";
export { expertLoad, type Routing, route, sequenceBalance, updateRouterBias } from "./router.ts";
export {
  adjust,
  adjusts,
  argmax,
  type Choice,
  draw,
  type History,
  type SamplingOptions,
  sample,
  weigh,
} from "./sample.ts";
export { BlockSteps, cacheType, type Steps, type Stretch } from "./step.ts";
