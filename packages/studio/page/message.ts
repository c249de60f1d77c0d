/** One turn of the conversation: what a person said, or an answer with all that is known of it. */
import { Component, type ComponentChild, h } from "preact";
import { useState } from "preact/hooks";
import { type Answer, type Call, rate, type Said } from "./answer.ts";
import { CallView } from "./call.ts";
import { whole } from "./figures.ts";
import { change, copy, copyCurl, edit, giveResult, state as page, regenerate, running } from "./state.ts";
import { Markdown } from "./text.ts";
import { Tokens } from "./tokens.ts";
import { advice, type Trouble } from "./wire.ts";

const button = (label: string, onClick: () => void, more: Record<string, unknown> = {}) =>
  h("button", { type: "button", onClick, ...more }, label);

export function SaidView({ turn, index }: { turn: Said; index: number }) {
  if (page.editing === index) return h(Editor, { turn, index });
  return h(
    "article",
    { class: "said", "aria-label": "You" },
    h("div", { class: "bubble" }, turn.content),
    h(
      "div",
      { class: "actions" },
      button("Copy", () => void copy(turn.content, "Message")),
      !page.play && button("Edit", () => change({ editing: index }), { disabled: !!running() }),
    ),
  );
}

function Editor({ turn, index }: { turn: Said; index: number }) {
  const [text, setText] = useState(turn.content);
  const cancel = () => {
    delete page.editing;
    change();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") cancel();
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      edit(index, text);
    }
  };
  return h(
    "article",
    { class: "said editing", "aria-label": "You, editing" },
    h("textarea", {
      ...{ value: text, rows: Math.min(12, text.split("\n").length + 1), "aria-label": "Edit your message", onKeyDown },
      onInput: (event: InputEvent) => setText((event.target as HTMLTextAreaElement).value),
      ref: (area: HTMLTextAreaElement | null) => area && document.activeElement === document.body && area.focus(),
    }),
    h(
      "div",
      { class: "actions shown" },
      button("Cancel", cancel),
      button("Send", () => edit(index, text), { class: "primary", disabled: !text.trim() }),
    ),
  );
}

interface AnswerProps {
  turn: Answer;
  index: number;
  /** What else decides how it looks. */
  version: number;
  plain: boolean;
  busy: boolean;
}

/** Drawn again only when something in it has changed: a long conversation costs nothing while its end streams. */
export class AnswerView extends Component<AnswerProps, { tokens: boolean }> {
  override state = { tokens: false };

  override shouldComponentUpdate(next: AnswerProps, { tokens }: { tokens: boolean }): boolean {
    const { turn, index, version, plain, busy } = this.props;
    return (
      turn !== next.turn ||
      index !== next.index ||
      version !== next.version ||
      plain !== next.plain ||
      busy !== next.busy ||
      tokens !== this.state.tokens
    );
  }

  override render({ turn, index, plain, busy }: AnswerProps): ComponentChild {
    const { tokens } = this.state;
    const live = turn.state === "running";
    return h(
      "article",
      { class: "answer", "aria-label": "Answer", "aria-busy": live },
      turn.reasoning !== "" &&
        h(Reasoning, { text: turn.reasoning, live: live && !turn.content && !turn.calls.length }),
      tokens
        ? h(Tokens, { tokens: turn.tokens })
        : plain
          ? turn.content && h("pre", { class: "plain" }, turn.content)
          : h(Markdown, { text: turn.content }),
      turn.calls.map((call, i) => h(OpenCall, { key: i, turn, call, index: i })),
      live && h("span", { class: "caret", "aria-hidden": true }),
      turn.trouble && h(TroubleView, { trouble: turn.trouble, retry: () => regenerate(index) }),
      !live && h("p", { class: "facts faint" }, facts(turn)),
      !live &&
        h(
          "div",
          { class: "actions" },
          turn.content && button("Copy", () => void copy(turn.content, "Answer")),
          !page.play && [
            button("Regenerate", () => regenerate(index), { disabled: busy }),
            button("curl", () => void copyCurl(turn), { title: "Copy the request as a curl command" }),
          ],
          turn.tokens.length > 0 &&
            button("Tokens", () => this.setState({ tokens: !tokens }), { "aria-pressed": tokens }),
        ),
      turn.explain && h(Explanation, { explain: turn.explain }),
    );
  }
}

function Reasoning({ text, live }: { text: string; live: boolean }) {
  const words = text.trim().split(/\s+/).length;
  const tail = text.trimEnd().slice(-160).replace(/\s+/g, " ");
  return h(
    "details",
    { class: `reasoning${live ? " live" : ""}` },
    h(
      "summary",
      null,
      live ? "Thinking" : `Reasoning · ${words} ${words === 1 ? "word" : "words"}`,
      live && h("span", { class: "tail", "aria-hidden": true }, h("bdi", null, tail)),
    ),
    h("div", { class: "thought" }, text),
  );
}

/** A call, and the field in which a person plays the tool. */
function OpenCall({ turn, call, index }: { turn: Answer; call: Call; index: number }) {
  const [text, setText] = useState("");
  const waits = turn.state === "done" && call.result === undefined;
  const id = `result-${call.id}-${index}`;
  return h(
    CallView,
    { name: call.name, id: call.id, args: call.arguments, result: call.result },
    waits &&
      h(
        "form",
        {
          onSubmit: (event: Event) => {
            event.preventDefault();
            giveResult(turn, index, text);
          },
        },
        h("label", { for: id }, "You are the tool. What does it return?"),
        h("textarea", {
          ...{ id, value: text, rows: 2, placeholder: '{"temperature": 21}' },
          onInput: (event: InputEvent) => setText((event.target as HTMLTextAreaElement).value),
          onKeyDown: (event: KeyboardEvent) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            giveResult(turn, index, text);
          },
        }),
        h("button", { type: "submit", class: "primary" }, "Return result"),
      ),
  );
}

export function TroubleView({ trouble, retry }: { trouble: Trouble; retry?: () => void }) {
  const { status, code, param, requestId } = trouble;
  const facts = [status > 0 && `HTTP ${status}`, code, param, requestId].filter(Boolean).join(" · ");
  return h(
    "div",
    { class: "trouble", role: "alert" },
    h("p", null, trouble.message),
    advice(trouble) && h("p", null, advice(trouble)),
    facts && h("p", { class: "faint" }, facts),
    retry && button("Retry", retry),
  );
}

/** One line: why it ended, what it cost, how fast it came. */
function facts(answer: Answer): string {
  const { state: ended, finish, usage, first } = answer;
  const speed = rate(answer);
  const endings: Record<string, string> = {
    length: "cut off: no tokens left",
    content_filter: "stopped by the upstream",
  };
  return [
    ended === "stopped" ? "stopped" : endings[finish ?? ""],
    usage && `${whole(usage.prompt)} tokens in`,
    usage && usage.cached > 0 && `${whole(usage.cached)} cached`,
    usage && `${whole(usage.completion)} out`,
    speed && `${speed < 10 ? speed.toFixed(1) : whole(speed)} tokens/s`,
    first !== undefined &&
      first >= 1 &&
      `first after ${first < 1000 ? `${Math.round(first)} ms` : `${(first / 1000).toFixed(1)} s`}`,
  ]
    .filter(Boolean)
    .join(" · ");
}

function Explanation({ explain }: { explain: Record<string, unknown> }) {
  const { prompt, prompt_ids: ids, ...rest } = explain;
  return h(
    "details",
    { class: "explain" },
    h("summary", null, "What the model was given"),
    typeof prompt === "string" && h("pre", { tabIndex: 0 }, prompt),
    Array.isArray(ids) && h("pre", { tabIndex: 0, class: "ids" }, ids.join(" ")),
    h("pre", { tabIndex: 0 }, JSON.stringify(rest, null, 2)),
  );
}
