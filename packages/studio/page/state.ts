/** What the page knows, and all that can be done to it. Views read `state` and are drawn anew, at most once a frame, after
 *  every `change`. */
import { type Answer, newAnswer, open, type Turn, take } from "./answer.ts";
import { store } from "./frame.ts";
import type { Played, World } from "./play.ts";
import { bodyOf, curlOf, messagesOf, noSettings, problemsOf, readTools, type Settings } from "./request.ts";
import type { Theme } from "./theme.ts";
import { getJson, postStream, type Trouble, WireError } from "./wire.ts";

export interface State {
  settings: Settings;
  theme: Theme;
  /** Shows answers as they were written, Markdown unformatted. */
  plain: boolean;
  /** Never stored. */
  key: string;
  turns: Turn[];
  draft: string;
  models: { id: string; context?: number; counts: boolean }[];
  /** Worlds whose user can be played here, and the one that is. */
  worlds: World[];
  play?: Played;
  /** Why there are no models. */
  trouble?: Trouble;
  /** Tokens of conversation and draft, where the server counts them. */
  count?: number;
  panel: boolean;
  remember: boolean;
  /** Index of the turn that is being edited. */
  editing?: number;
  /** The next drawing shows the end, wherever one was. */
  toEnd: boolean;
  /** Said to screen readers, and shown for a moment. */
  notice: string;
}

const STORE = "massif";

export const state: State = {
  ...{ settings: { ...noSettings }, theme: "", plain: false, key: "", turns: [], draft: "", models: [] },
  ...{ worlds: [], panel: false, remember: false, notice: "", toEnd: false },
};

export const { change, onChange } = store(state);

export function set<K extends keyof Settings>(key: K, value: Settings[K]): void {
  change({ settings: { ...state.settings, [key]: value } });
  keep();
}

export function setTheme(theme: Theme): void {
  change({ theme });
  keep();
}

/** Writes down what is remembered, if that was asked for; otherwise nothing stays. */
export function keep(): void {
  const { settings, theme, plain, play, remember } = state;
  // A world is the server's to remember.
  const turns = play ? [] : state.turns;
  try {
    if (remember) localStorage.setItem(STORE, JSON.stringify({ settings, theme, plain, turns }));
    else localStorage.removeItem(STORE);
  } catch {
    note("This browser cannot remember the conversation: its storage is full or closed.");
  }
}

export function recall(): void {
  try {
    const kept = localStorage.getItem(STORE);
    if (!kept) return;
    const { settings, theme = "", plain = false, turns = [] } = JSON.parse(kept) as Partial<State>;
    const settled = turns.map((turn) => ("state" in turn && turn.state === "running" ? stopped(turn) : turn));
    Object.assign(state, { settings: { ...noSettings, ...settings }, theme, plain, turns: settled, remember: true });
  } catch {
    localStorage.removeItem(STORE);
  }
}
const stopped = (answer: Answer): Answer => ({ ...answer, state: "stopped" });

let silence = 0;
export function note(notice: string): void {
  change({ notice });
  clearTimeout(silence);
  silence = setTimeout(() => change({ notice: "" }), 4000) as unknown as number;
}

interface ModelRow {
  id: string;
  max_model_len?: number;
  supports_tokenize?: boolean;
}

/** Asks what can be talked to, again and again until there is an answer. */
export async function findModels(): Promise<void> {
  try {
    const { data } = (await getJson("/v1/models", state.key)) as { data: ModelRow[] };
    const models = data.map(({ id, max_model_len: context, supports_tokenize: counts = false }) => ({
      ...{ id, counts },
      ...(context && { context }),
    }));
    delete state.trouble;
    change({ models });
    if (!models.some(({ id }) => id === state.settings.model)) set("model", models[0]?.id ?? "");
  } catch (error) {
    const trouble = troubleOf(error);
    change({ trouble });
    if (trouble.status === 0 || trouble.status >= 500) setTimeout(findModels, 2000);
  }
}

const troubleOf = (error: unknown): Trouble =>
  error instanceof WireError ? error.trouble : { status: -1, message: `The page failed: ${(error as Error).message}` };

export const running = (): Answer | undefined => {
  const last = state.turns.at(-1);
  return last?.role === "assistant" && last.state === "running" ? last : undefined;
};
/** Whether a message can be sent now. */
export const ready = (): boolean =>
  !running() && !open(state.turns.at(-1)).length && state.settings.model !== "" && !firstProblem();
export const firstProblem = (): string | undefined => Object.values(problemsOf(state.settings))[0];

let controller: AbortController | undefined;

/** Sends the draft, or this text. */
export function send(text = state.draft): void {
  if (!text.trim() || !ready()) return;
  state.turns.push({ role: "user", content: text });
  delete state.count;
  change({ draft: "", toEnd: true });
  void answer();
}

/** Asks for the next answer to the conversation as it stands. */
async function answer(): Promise<void> {
  const request = bodyOf(state.settings, state.turns);
  const turn = newAnswer(request);
  const own = (controller = new AbortController());
  state.turns.push(turn);
  change();
  const began = performance.now();
  try {
    for await (const chunk of postStream("/v1/chat/completions", state.key, request, own.signal)) {
      take(turn, chunk, performance.now() - began);
      change();
    }
    turn.state = "done";
  } catch (error) {
    turn.state = own.signal.aborted ? "stopped" : "failed";
    if (turn.state === "failed") turn.trouble = troubleOf(error);
  }
  turn.version++;
  change();
  keep();
}

export function stop(): void {
  controller?.abort();
}

/** Forgets the turn at an index and all after it, and asks again. */
export function regenerate(index: number): void {
  if (running() || firstProblem()) return;
  state.turns.length = index;
  void answer();
}

/** Says something else at an index; what followed is forgotten. */
export function edit(index: number, content: string): void {
  delete state.editing;
  state.turns.length = index;
  send(content);
}

/** Returns a tool's result; after the last of a message the model goes on. */
export function giveResult(turn: Answer, call: number, result: string): void {
  turn.calls[call]!.result = result;
  turn.version++;
  change();
  keep();
  if (!open(turn).length && state.turns.at(-1) === turn) void answer();
}

export function reset(): void {
  stop();
  delete state.editing;
  delete state.count;
  change({ turns: [], draft: "" });
  keep();
}

let counting = 0;
/** Counts the tokens of conversation and draft, a moment after the last key. */
export function countTokens(): void {
  clearTimeout(counting);
  if (!state.models.find(({ id }) => id === state.settings.model)?.counts || firstProblem()) return;
  counting = setTimeout(async () => {
    const { settings, turns, draft, key } = state;
    const messages = messagesOf(settings.system, [...turns, { role: "user", content: draft }]);
    const { tools } = readTools(settings.tools);
    try {
      const body = { model: settings.model, messages, ...(tools.length && { tools }) };
      const { count } = (await getJson("/tokenize", key, body)) as { count: number };
      change({ count });
    } catch {
      // The message can be sent without.
    }
  }, 300) as unknown as number;
}

export async function copy(text: string, what: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    note(`${what} copied`);
  } catch {
    note("This browser lets no page copy here; open the page over https or on localhost.");
  }
}

export const copyCurl = ({ request }: Answer): Promise<void> =>
  copy(curlOf(location.origin, request, state.key !== ""), "curl command");
