/** Reads turns for `aside.ts`, one after the other. */
import { parentPort } from "node:worker_threads";
import { MassifError } from "../common/index.ts";
import { readTurn, type TurnOptions, type TurnParts } from "./turn.ts";

/** What an error is made of: classes do not cross threads. */
export type Read = { parts: TurnParts } | { code: string; trouble: { found: string; expected?: string; fix?: string } };

parentPort!.postMessage("ready");
parentPort!.on("message", (options: TurnOptions) => parentPort!.postMessage(answer(options)));

function answer(options: TurnOptions): Read {
  try {
    return { parts: readTurn(options) };
  } catch (error) {
    if (!(error instanceof MassifError)) throw error;
    const { cause: _, ...trouble } = error.trouble;
    return { code: error.code, trouble: trouble as { found: string } };
  }
}
