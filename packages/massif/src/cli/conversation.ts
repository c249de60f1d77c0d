/** A conversation by lines: a person's, or a pipe's. Answers go to `out`; all else (prompt, reasoning, calls, costs) goes to
 *  `aside`, so that a pipe gets the answers alone. */
import { writeFileSync } from "node:fs";
import { createInterface, type Interface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { styleText } from "node:util";
import type { AssistantMessage, Message, TemplateName, ToolSpec } from "../chat/index.ts";
import { MassifError, nearest } from "../common/index.ts";
import { assembleCompletion, type ChatRequest, type LanguageModel, type ModelEvent, type Usage } from "../llm/index.ts";

export interface ConversationOptions {
  model: LanguageModel;
  system?: string;
  tools?: readonly ToolSpec[];
  sampling?: ChatRequest["sampling"];
  /** Stands in what is saved. */
  template?: TemplateName;
  input: Readable;
  out: Writable;
  aside: Writable;
  /** A person sits there: prompts, line editing, colours, costs; no control character of the model's reaches it. */
  terminal: boolean;
  now?: () => number;
}

const help = `/reset          forget the conversation (the system prompt stays)
/system TEXT    another system prompt; without text, none
/save FILE      write the conversation as a JSON row, which massif chat render reads
/exit           leave (or Ctrl-D)
Ctrl-C          stop the answer; again, leave`;
const commands = ["help", "reset", "system", "save", "exit"];

/** What a terminal would obey is shown as a picture; line feeds and tabs stay. */
const visible = (text: string): string =>
  text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, (c) =>
    c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : c === "\x7f" ? "␡" : "\ufffd",
  );

/** Talks until the input ends or the person leaves. Returns whether every message was answered. */
export async function converse(options: ConversationOptions): Promise<boolean> {
  const conversation = new Conversation(options);
  return conversation.run();
}

class Conversation {
  readonly #options: ConversationOptions;
  readonly #lines: Lines;
  readonly #now: () => number;
  #system: string;
  #messages: Message[] = [];
  #answering: AbortController | undefined;
  #answered = true;

  constructor(options: ConversationOptions) {
    this.#options = options;
    this.#system = options.system ?? "";
    this.#now = options.now ?? (() => performance.now());
    this.#lines = new Lines(options, () => this.#interrupt());
  }

  async run(): Promise<boolean> {
    const { terminal, model } = this.#options;
    if (terminal) this.#note(`${model.name}. /help lists the commands.\n`);
    try {
      for (let line = await this.#lines.next("› "); line !== undefined; line = await this.#lines.next("› ")) {
        if (line.startsWith("/")) {
          if (!this.#command(line)) break;
        } else if (line.trim()) await this.#say(line);
      }
    } finally {
      this.#lines.close();
    }
    return this.#answered;
  }

  /** The first Ctrl-C stops the answer, the next one leaves. */
  #interrupt(): void {
    if (this.#answering && !this.#answering.signal.aborted) this.#answering.abort();
    else {
      this.#answered &&= this.#options.terminal;
      this.#lines.close();
    }
  }

  /** Returns whether the conversation goes on. */
  #command(line: string): boolean {
    const [, name = "", rest = ""] = /^\/(\S*)\s*(.*)$/s.exec(line)!;
    if (name === "exit") return false;
    if (name === "help") this.#note(`${help}\n`);
    else if (name === "reset") {
      this.#messages = [];
      this.#note("forgotten\n");
    } else if (name === "system") {
      this.#system = rest.trim();
      this.#note(this.#system ? "from the next message on\n" : "no system prompt\n");
    } else if (name === "save" && rest.trim()) this.#save(rest.trim());
    else if (name === "save") this.#note("/save FILE: where to?\n");
    else {
      const like = nearest(name, commands);
      this.#note(`there is no /${name}; ${like ? `did you mean /${like}?` : "/help lists what there is"}\n`);
    }
    return true;
  }

  #save(file: string): void {
    const { tools, template } = this.#options;
    const row = { ...(template && { template }), messages: this.#all(), ...(tools?.length && { tools }) };
    try {
      writeFileSync(file, `${JSON.stringify(row)}\n`);
      this.#note(`${row.messages.length} messages in ${file}\n`);
    } catch (error) {
      this.#note(`${(error as Error).message}\n`);
    }
  }

  #all(): Message[] {
    return [...(this.#system ? [{ role: "system" as const, content: this.#system }] : []), ...this.#messages];
  }

  /** One message and its answer, and as long as the answer calls tools, their results and the next. */
  async #say(text: string): Promise<void> {
    const before = this.#messages.length;
    this.#messages.push({ role: "user", content: text });
    try {
      for (;;) {
        const message = await this.#answer();
        if (message.content || message.tool_calls) this.#messages.push(message);
        if (!message.tool_calls) return;
        for (const { id, function: fn } of message.tool_calls) {
          const result = await this.#lines.next(`${fn.name} returns › `);
          if (result === undefined) return;
          this.#messages.push({ role: "tool", content: result, ...(id && { tool_call_id: id }) });
        }
      }
    } catch (error) {
      if (!(error instanceof MassifError)) throw error;
      // The message can be said again: the conversation is as it was before it.
      this.#messages.length = before;
      this.#answered = false;
      this.#options.aside.write(`${this.#paint("red", error.message)}\n`);
    }
  }

  async #answer(): Promise<AssistantMessage> {
    const { model, tools, sampling } = this.#options;
    const controller = (this.#answering = new AbortController());
    const { signal } = controller;
    const request = { messages: this.#all(), ...(tools?.length && { tools }), ...(sampling && { sampling }), signal };
    const writer = new AnswerWriter(this.#options);
    const events: ModelEvent[] = [];
    const began = this.#now();
    let first: number | undefined;
    try {
      for await (const event of model.stream(request)) {
        if (event.type !== "start") first ??= this.#now();
        events.push(event);
        writer.write(event);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      this.#answering = undefined;
      writer.end();
    }
    const { message, usage, finish } = assembleCompletion(events);
    const last = this.#now();
    if (signal.aborted) this.#note("stopped\n");
    else if (finish === "length") this.#note("cut off: no tokens left\n");
    else if (usage && this.#options.terminal)
      this.#note(`${costs(usage, (first ?? last) - began, last - (first ?? last))}\n`);
    // Calls of an answer that was stopped are not to be made.
    return signal.aborted ? { ...message, tool_calls: undefined } : message;
  }

  #note(text: string): void {
    this.#options.aside.write(this.#paint("dim", text));
  }

  #paint(style: "dim" | "red", text: string): string {
    return this.#options.terminal ? styleText(style, visible(text), { validateStream: false }) : text;
  }
}

/** Milliseconds to the first event, and from there to the last. */
function costs({ promptTokens, cachedTokens, completionTokens }: Usage, wait: number, rest: number): string {
  const rate = rest >= 50 && completionTokens > 1 ? ((completionTokens - 1) * 1000) / rest : undefined;
  return [
    `${promptTokens} tokens in${cachedTokens ? ` (${cachedTokens} cached)` : ""}`,
    `${completionTokens} out`,
    rate !== undefined && `${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`,
    `first after ${(wait / 1000).toFixed(2)} s`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** Writes the events of an answer, each kind on lines of its own. */
class AnswerWriter {
  readonly #options: Pick<ConversationOptions, "out" | "aside" | "terminal">;
  /** What stands on the unfinished line, and where. */
  #open: Writable | undefined;
  #kind = "";

  constructor(options: Pick<ConversationOptions, "out" | "aside" | "terminal">) {
    this.#options = options;
  }

  write(event: ModelEvent): void {
    const { out, aside } = this.#options;
    if (event.type === "text") this.#put(out, "text", event.text);
    else if (event.type === "reasoning") this.#put(aside, "reasoning", event.text);
    else if (event.type === "tool-call-begin") this.#put(aside, `call ${event.index}`, `→ ${event.name} `);
    else if (event.type === "tool-call-delta") this.#put(aside, `call ${event.index}`, event.arguments);
    else if (event.type === "problem") {
      this.end();
      this.#put(aside, "problem", `(${event.code}) ${event.text}`);
    }
  }

  end(): void {
    this.#open?.write("\n");
    this.#open = undefined;
  }

  #put(to: Writable, kind: string, text: string): void {
    if (kind !== this.#kind) this.end();
    this.#kind = kind;
    this.#open = to;
    const shown = this.#options.terminal ? visible(text) : text;
    const dim = this.#options.terminal && kind === "reasoning";
    to.write(dim ? styleText("dim", shown, { validateStream: false }) : shown);
  }
}

/** A terminal that brackets what is pasted says where it begins and ends. */
const BRACKETS = { on: "\x1b[?2004h", off: "\x1b[?2004l" };

/** Lines of the input as they are asked for; those that come early wait. Lines that are pasted together stay together,
 *  with what is typed after them. */
class Lines {
  readonly #interface: Interface;
  readonly #aside: Writable | undefined;
  readonly #waiting: string[] = [];
  #pasting = false;
  #pasted = "";
  readonly #interrupt: () => void;
  #closed = false;
  #wake: (() => void) | undefined;

  constructor({ input, aside, terminal }: ConversationOptions, interrupt: () => void) {
    this.#aside = terminal ? aside : undefined;
    this.#interrupt = interrupt;
    this.#interface = createInterface({ input, terminal, ...(terminal && { output: aside }), crlfDelay: Infinity });
    this.#interface.on("line", (line) => {
      if (this.#pasting) this.#pasted += `${line}\n`;
      else {
        this.#waiting.push(this.#pasted + line);
        this.#pasted = "";
        this.#wake?.();
      }
    });
    this.#aside?.write(BRACKETS.on);
    if (terminal)
      input.on("keypress", (_, { name }: { name?: string }) => {
        if (name === "paste-start" || name === "paste-end") this.#pasting = name === "paste-start";
      });
    this.#interface.on("close", () => {
      this.#closed = true;
      this.#wake?.();
    });
    // A terminal in raw mode tells the key; a pipe's process gets the signal.
    this.#interface.on("SIGINT", interrupt);
    process.on("SIGINT", interrupt);
  }

  /** Undefined at the end. */
  async next(prompt: string): Promise<string | undefined> {
    if (this.#aside && !this.#closed) {
      this.#interface.setPrompt(prompt);
      this.#interface.prompt();
    }
    while (!this.#waiting.length && !this.#closed)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    return this.#waiting.shift();
  }

  /** Nothing more is read, not even what has come. */
  close(): void {
    this.#waiting.length = 0;
    this.#aside?.write(BRACKETS.off);
    process.off("SIGINT", this.#interrupt);
    this.#interface.close();
  }
}
