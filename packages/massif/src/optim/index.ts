export { type AdamWOptions, type AdamWState, adamwStep } from "./adamw.ts";
export type { Group } from "./arena.ts";
export { type MuonOptions, muonStep, muonSteps, newtonSchulz } from "./muon.ts";
export { MuonClip, MuonClipConfig, type StepReport } from "./muonclip.ts";
export { type ClippedHead, clipHeads, headsToClip, type QkRows } from "./qk-clip.ts";
export { ScheduleConfig, wsd } from "./schedule.ts";
