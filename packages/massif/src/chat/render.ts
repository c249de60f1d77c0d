/**
 * The K2 chat format, messages to tokens (kimi-k2.md §7.6–7.9). Every generation of the template is one row of a table.
 *
 * A rendering is a list of segments: control tokens, which only the template makes, and text, which is encoded with
 * special tokens off, whoever wrote it. So nothing that a user, a tool, a name or an argument says can become a control
 * token. `rendered` is the string before tokenizing, as the published Jinja templates give it.
 */
import { MassifError, nearest } from "../common/index.ts";
import { rewriteIds } from "./ids.ts";
import { type Control, controls } from "./markers.ts";
import { declareTools, styledJson, type ToolStyle } from "./tool-declarations.ts";
import { type AssistantMessage, type Message, type ToolSpec, textOf } from "./types.ts";

interface Template {
  defaultSystem: string;
  /** What stands after the default system turn: the published Instruct template leaks its line break there. */
  afterDefaultSystem: string;
  /** How this release declares tools if not told otherwise. */
  toolStyle: ToolStyle;
  /** What stands before and after the declarations. */
  toolsBefore: string;
  /** What stands between `## Return of ID` and the result; undefined: the release renders neither calls nor that line. */
  returnBreak: string | undefined;
  /** Turns are named by `name` where a message has one. */
  named: boolean;
  thinks: boolean;
}

const kimi = "You are Kimi, an AI assistant created by Moonshot AI.";
const plain = { afterDefaultSystem: "", toolsBefore: "", named: true, thinks: false };
const templates = {
  /** First release, July 2025. */
  "instruct-v0": {
    ...plain,
    ...{ defaultSystem: "You are a helpful assistant", toolStyle: "json", returnBreak: undefined, named: false },
  },
  /** Mid-July 2025, known from public copies; its indentation leaked into prompts. */
  "instruct-v1": {
    ...plain,
    defaultSystem: kimi,
    toolStyle: "json",
    toolsBefore: "\n  # Tools\n  ",
    returnBreak: "\n    ",
  },
  /** Later Instruct commits and 0905; the line break after the default system turn is from a reconstruction. */
  "instruct-v2": {
    ...plain,
    defaultSystem: kimi,
    afterDefaultSystem: "\n",
    toolStyle: "json-compact",
    returnBreak: "\n",
  },
  thinking: { ...plain, defaultSystem: kimi, toolStyle: "json-sorted", returnBreak: "\n", thinks: true },
} satisfies Record<string, Template>;

export type TemplateName = keyof typeof templates;
export const templateNames = Object.keys(templates) as TemplateName[];

/** A template by name; `instruct` is the latest Instruct. Throws `chat.template` naming the nearest. */
export function readTemplateName(name: unknown): TemplateName {
  if (name === "instruct") return "instruct-v2";
  const found = templateNames.find((known) => known === name);
  if (found) return found;
  const like = typeof name === "string" ? nearest(name, templateNames) : undefined;
  throw new MassifError("chat.template", {
    found: `template ${JSON.stringify(name)}`,
    expected: `one of ${templateNames.join(", ")}`,
    fix: like && `did you mean ${like}?`,
  });
}

/** Whether a template's model reasons between think tokens. */
export const thinks = (template: TemplateName): boolean => templates[template].thinks;

/** Who a token comes from. `assistant` is what the model itself writes, up to and with its `<|im_end|>`: what SFT learns
 *  and RL weighs. Tool declarations are `system`; turn headers, and think pairs put in for dropped reasoning, `template`. */
export type TokenSource = "template" | "system" | "user" | "tool" | "assistant";

/** `message` is the index of the message it renders: −1 for what stands before the first, `messages.length` for the
 *  generation prompt. Every message begins with a control token, so encoding the segments from a message on gives
 *  exactly the ids that the whole rendering has from there on: an agent appends, and never tokenizes again. */
export type Segment = { source: TokenSource; message: number } & (
  | { control: Control; text?: undefined }
  | { control?: undefined; text: string }
);

export interface RenderRequest {
  template: TemplateName;
  messages: readonly Message[];
  tools?: readonly ToolSpec[];
  /** Ends with the header of an assistant turn for the model to go on from. Default false, as in transformers. */
  addGenerationPrompt?: boolean;
  /** Default: what the template's release does. */
  toolStyle?: ToolStyle;
  /** Keeps the reasoning of every turn (K2.6's `keep: "all"`), not only of the current chain of tool calls. Then a
   *  conversation's prompt grows at its end only. Where reasoning is dropped, what follows the empty think pair was
   *  written after a full one: SFT should learn such a turn in its own rendering, cut after it. */
  keepReasoning?: boolean;
}

/** The segments of a conversation. Throws `chat.partial` where a message that is not the last is partial. */
export function render(request: RenderRequest): Segment[] {
  const template: Template = templates[request.template];
  const messages = rewriteIds(request.messages);
  const last = messages.at(-1);
  const continues = last?.role === "assistant" && last.partial === true;
  const early = messages.findIndex((m, i) => m.role === "assistant" && m.partial && i < messages.length - 1);
  if (early >= 0) {
    throw new MassifError("chat.partial", {
      found: `messages[${early}] is partial, and is not the last message`,
      expected: "partial: true on the last assistant message only",
    });
  }

  const segments: Segment[] = [];
  let message = -1;
  const control = (source: TokenSource, ...names: Control[]) => {
    for (const name of names) segments.push({ source, message, control: name });
  };
  const text = (source: TokenSource, text: string) => {
    if (text) segments.push({ source, message, text });
  };
  const header = (open: "user" | "assistant" | "system", name: string) => {
    control("template", open);
    text("template", name);
    control("template", "middle");
  };

  const style = request.toolStyle ?? template.toolStyle;
  const declare = (tools: readonly ToolSpec[]) => {
    const declared = declareTools(tools, style);
    if (!declared) return;
    header("system", "tool_declare");
    text("system", template.toolsBefore + declared);
    control("template", "end");
  };
  declare(request.tools ?? []);
  if (messages[0]?.role !== "system" && (messages.length || template.thinks)) {
    header("system", "system");
    text("system", template.defaultSystem);
    control("template", "end");
    text("template", template.afterDefaultSystem);
  }

  // Reasoning is kept after the last answer without calls: within the current chain of tool calls (§7.8).
  const answered = messages.findLastIndex((m) => m.role === "assistant" && !m.tool_calls && !m.partial);
  for (const [i, m] of messages.entries()) {
    message = i;
    if (m.role === "system" && m.tools) {
      declare(m.tools);
      continue;
    }
    const open = m.role === "tool" ? "system" : m.role;
    header(open, (template.named && m.name) || m.role);
    if (m.role === "assistant") {
      const partial = continues && m === last;
      if (template.thinks && !(partial && !m.reasoning_content && !textOf(m.content))) {
        const keep = i > answered || request.keepReasoning === true;
        const source = keep ? "assistant" : "template";
        control(source, "think");
        if (keep) text("assistant", m.reasoning_content ?? "");
        if (!(partial && !textOf(m.content))) control(source, "thinkEnd");
      }
      text("assistant", textOf(m.content));
      if (template.returnBreak !== undefined) renderCalls(m, style, control, text);
      if (!partial) control("assistant", "end");
      continue;
    }
    const heading =
      m.role === "tool" && template.returnBreak ? `## Return of ${m.tool_call_id}${template.returnBreak}` : "";
    text(m.role, heading + textOf(m.content));
    control("template", "end");
  }

  message = messages.length;
  if (request.addGenerationPrompt && !continues) header("assistant", "assistant");
  return segments;
}

function renderCalls(
  message: AssistantMessage,
  style: ToolStyle,
  control: (source: TokenSource, ...names: Control[]) => void,
  text: (source: TokenSource, text: string) => void,
): void {
  if (!message.tool_calls) return;
  control("assistant", "sectionBegin");
  for (const { id, function: fn } of message.tool_calls) {
    control("assistant", "callBegin");
    text("assistant", id ?? "");
    control("assistant", "argumentBegin");
    text("assistant", typeof fn.arguments === "string" ? fn.arguments : styledJson(fn.arguments, style));
    control("assistant", "callEnd");
  }
  control("assistant", "sectionEnd");
}

/** The string that the published templates give. It cannot tell a control token from text that looks like one. */
export function renderedText(segments: readonly Segment[]): string {
  return segments.map((segment) => (segment.control ? controls[segment.control] : segment.text)).join("");
}
