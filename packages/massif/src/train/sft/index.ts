export { type NamedExample, readExamples } from "./conversations.ts";
export { type Conversation, type Example, examplesOf, readConversation } from "./examples.ts";
export { layOut } from "./layout.ts";
export { type PackedBatch, PackedOrder, type PackingState, pack } from "./packing.ts";
export * from "./recipe.ts";
export { type SftOptions, type SftResult, sft } from "./sft.ts";
