export * from "./clean.ts";
export * from "./evaluation.ts";
export * from "./order.ts";
export * from "./prepare.ts";
export { type FirstToken, IGNORE, type Rows } from "./rows.ts";
export * from "./sources.ts";
export * from "./split.ts";
export { TokenFile, type TokenFileInfo } from "./tokens.ts";
export { TokenWriter } from "./writer.ts";
