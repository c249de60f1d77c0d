/** Playing the user of a world: what the server tells of the conversation, as turns of this page. */
import { type Answer, newAnswer, take } from "./answer.ts";
import { change, note, running, state } from "./state.ts";
import { ask, getJson, readEvents, type Trouble, WireError } from "./wire.ts";

export interface World {
  world: string;
  about: string;
  rules: string[];
  tools: { name: string; description?: string }[];
}

export interface Check {
  name: string;
  ok: boolean;
  why?: string;
}

export interface Played extends World {
  id: string;
  seed: number;
  brief: { task: string; goal: string; facts: string[]; acts: string[] };
  /** Acts that were done. */
  done: number[];
  /** It is the person's turn. */
  waiting: boolean;
  verdict?: { success: boolean; ended: string; checks: Check[] };
  trouble?: Trouble;
}

type PlayEvent =
  | { type: "said"; text: string }
  | { type: "turn" }
  | { type: "chunk"; chunk: unknown }
  | { type: "results"; results: { id: string; content: string }[] }
  | { type: "wait" }
  | { type: "end"; success: boolean; ended: string; checks: Check[] }
  | { type: "failed"; message: string };

let stream: AbortController | undefined;

export async function findWorlds(): Promise<void> {
  try {
    const { worlds } = (await getJson("/api/worlds", state.key)) as { worlds: World[] };
    change({ worlds });
  } catch {
    // Servers of other makes have none.
  }
}

/** Another task of a world; "" goes back to plain chat. */
export async function playWorld(world: string): Promise<void> {
  leave();
  change({ turns: [], draft: "" });
  if (!world) return;
  try {
    const { settings } = state;
    const number = (text: string) => (text.trim() ? Number(text) : undefined);
    const asked = {
      ...{ model: settings.model, world, temperature: number(settings.temperature), top_p: number(settings.topP) },
      ...{ max_tokens: number(settings.maxTokens), seed: number(settings.seed) },
      ...(settings.logprobs && { top_logprobs: 5 }),
    };
    const begun = (await getJson("/api/worlds/play", state.key, asked)) as Omit<Played, "waiting" | "done">;
    const play: Played = { ...begun, waiting: true, done: [] };
    change({ play, panel: false });
    void follow(play, (stream = new AbortController()).signal);
  } catch (error) {
    note(error instanceof WireError ? error.trouble.message : "The page failed.");
  }
}

function leave(): void {
  const { play } = state;
  stream?.abort();
  delete state.play;
  if (play && !play.verdict) void ask({ path: path(play), key: state.key, method: "DELETE" }).catch(() => undefined);
}

const path = ({ id }: Played, rest = "") => `/api/worlds/play/${id}${rest}`;

/** Takes in what happens; a stream that breaks is opened again after the last event that came. */
async function follow(play: Played, signal: AbortSignal): Promise<void> {
  let last = "";
  const began = { at: performance.now() };
  while (!signal.aborted && !play.verdict && !play.trouble) {
    try {
      const { body } = await ask({ path: path(play, "/events"), key: state.key, signal, last });
      for await (const { id = "", event, lines } of readEvents(body!)) {
        if (event !== "play") continue;
        last = id;
        apply(play, JSON.parse(lines.join("\n")) as PlayEvent, began);
        change();
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof WireError && error.trouble.status === 404) {
        play.trouble = { status: 404, message: "The server has let go of this conversation." };
        change();
      }
    }
    if (!signal.aborted && !play.verdict && !play.trouble) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function apply(play: Played, event: PlayEvent, began: { at: number }): void {
  const last = state.turns.at(-1);
  const answer = last?.role === "assistant" ? last : undefined;
  const settle = (as: Answer["state"]) => {
    if (answer?.state !== "running") return;
    for (const call of answer.calls) call.result ??= "";
    answer.state = as;
    answer.version++;
  };
  switch (event.type) {
    case "said":
      state.turns.push({ role: "user", content: event.text });
      play.waiting = false;
      state.toEnd = true;
      break;
    case "turn":
      began.at = performance.now();
      state.turns.push(newAnswer({}));
      break;
    case "chunk":
      if (answer) take(answer, event.chunk, performance.now() - began.at);
      break;
    case "results":
      for (const { id, content } of event.results) {
        const call = answer?.calls.find((one) => one.id === id && one.result === undefined);
        if (call) call.result = content;
      }
      settle("done");
      break;
    case "wait":
      settle("done");
      play.waiting = true;
      break;
    case "end":
      settle("done");
      play.waiting = false;
      play.verdict = event;
      state.toEnd = true;
      break;
    case "failed":
      settle("failed");
      play.waiting = false;
      play.trouble = { status: -1, message: event.message };
      break;
  }
}

async function tell(play: Played, body: object): Promise<{ text?: string } | undefined> {
  try {
    return (await getJson(path(play, "/say"), state.key, body)) as { text?: string };
  } catch (error) {
    note(error instanceof WireError ? error.trouble.message : "The page failed.");
    return undefined;
  }
}

/** Whether it is the person's turn to speak. */
export const mayspeak = (): boolean => !!state.play?.waiting && !running();

export async function sayInWorld(text: string): Promise<void> {
  const { play } = state;
  if (!play || !text.trim() || !mayspeak()) return;
  play.waiting = false;
  change({ draft: "" });
  if (!(await tell(play, { text }))) {
    play.waiting = true;
    change({ draft: text });
  }
}

/** The person has what they wanted, or gives up: the world is judged as it stands. */
export async function endPlay(): Promise<void> {
  const { play } = state;
  if (play && mayspeak()) await tell(play, { end: true });
}

/** Does what a user of this world can do themselves, and puts into the draft what they would say of it. */
export async function doAct(index: number): Promise<void> {
  const { play, draft } = state;
  if (!play || !mayspeak()) return;
  const answer = await tell(play, { act: index });
  if (answer?.text === undefined) return;
  if (!answer.text.startsWith("It did not work")) play.done.push(index);
  change({ draft: draft ? `${draft} ${answer.text}` : answer.text });
}
