/** A conversation as the ids that the model is given, and what of them is already the answer's own beginning. */
import {
  controls,
  encodeSegments,
  render,
  type Segment,
  type TemplateName,
  type ToolStyle,
  thinks,
} from "../../chat/index.ts";
import type { ChatRequest } from "../../llm/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";

export interface PromptOptions {
  template: TemplateName;
  toolStyle?: ToolStyle;
  tokenizer: Tokenizer;
  /** Whether the answer is held to a grammar. */
  enforced: boolean;
  /** Most tokens of a prompt and what follows it. */
  contextLength: number;
}

export interface Prompt {
  ids: number[];
  segments: Segment[];
  /** Ids at the end that the answer goes on from as its own. */
  said: number[];
  /** Whether it begins inside of its reasoning. */
  reasoning: boolean;
}

export function promptOf(request: ChatRequest, options: PromptOptions): Prompt {
  const { template, toolStyle, tokenizer, enforced, contextLength } = options;
  const segments = render({
    template,
    // Only the header is looked at where the rest is given as ids.
    ...(request.promptIds ? { messages: [] } : { messages: request.messages, tools: request.tools ?? [] }),
    addGenerationPrompt: true,
    ...(toolStyle && { toolStyle }),
    ...(request.reasoning?.keep && { keepReasoning: true }),
  });
  const open = segments.findLastIndex(({ control }) => control === "middle");
  const inThink = segments.slice(open).findLast(({ control }) => control === "think" || control === "thinkEnd");
  const pair = thinks(template) && tokenizer.special.has(controls.think) && tokenizer.special.has(controls.thinkEnd);
  let reasoning = inThink?.control === "think";
  const more: Segment[] = [];
  const add = (control: "think" | "thinkEnd") =>
    more.push({ source: "template", message: request.messages.length, control });
  // Nothing begun: an answer without reasoning has an empty pair; one that a grammar holds must say where it begins.
  if (!inThink && pair && open === segments.length - 1) {
    const wanted = mayThink(request);
    if (!wanted || enforced) {
      add("think");
      if (wanted) reasoning = true;
      else add("thinkEnd");
    }
  }
  const said = more.length
    ? more
    : inThink
      ? segments.slice(open + 1).filter((s) => s.control === "think" || s.control === "thinkEnd")
      : [];
  const whole = request.promptIds
    ? [...request.promptIds, ...encodeSegments(more, tokenizer).ids]
    : encodeSegments([...segments, ...more], tokenizer).ids;
  return {
    ids: truncated(whole, request, contextLength),
    segments: [...segments, ...more],
    said: said.flatMap(({ control }) => tokenizer.special.get(controls[control!]) ?? []),
    reasoning,
  };
}

/** Whether the answer may reason. A model that never does keeps to any wish about it. */
const mayThink = ({ reasoning }: ChatRequest): boolean =>
  (reasoning?.enabled ?? true) && reasoning?.effort !== "none" && reasoning?.budget !== 0;

/** The end of a prompt, where only so much of it is wanted. */
function truncated(ids: number[], { truncatePrompt, sampling }: ChatRequest, contextLength: number): number[] {
  if (truncatePrompt === undefined) return ids;
  const room = Math.max(1, contextLength - (sampling?.maxTokens ?? 1));
  return ids.slice(-(truncatePrompt < 0 ? room : truncatePrompt));
}
