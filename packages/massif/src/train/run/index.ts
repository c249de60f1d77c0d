export type { Chart, Line, Point } from "./chart.ts";
export { thin } from "./chart.ts";
export * from "./checkpoints.ts";
export * from "./folder.ts";
export type { Heatmap } from "./heatmap.ts";
export * from "./provenance.ts";
export * from "./report.ts";
export * from "./run-report.ts";
export { readRows } from "./step-log.ts";
