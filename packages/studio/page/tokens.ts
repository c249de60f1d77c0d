/** An answer token by token: how sure the model was of each, and what else it might have said. */
import { h } from "preact";
import { useState } from "preact/hooks";
import type { Token } from "./answer.ts";
import { fixed, percent } from "./figures.ts";

/** 0 (as good as certain) to 5 (less than one in thirty). */
const surprise = (logprob: number): number => Math.min(5, Math.floor(-logprob / 0.7));

/** Blanks and control characters are seen only here. */
const shown = (text: string): string =>
  text
    .replaceAll(" ", "␣")
    .replaceAll("\n", "↵")
    .replaceAll("\t", "⇥")
    .replace(/[\0-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0))) || "∅";

/** One stop of the Tab key; arrows, Home and End go from token to token. */
export function Tokens({ tokens }: { tokens: readonly Token[] }) {
  const [at, setAt] = useState(0);
  const token = tokens[Math.min(at, tokens.length - 1)];
  const go = (event: KeyboardEvent) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    setAt(Math.max(0, Math.min(tokens.length - 1, to)));
  };
  const over = (event: Event) => {
    const index = (event.target as HTMLElement).dataset.index;
    if (index !== undefined) setAt(Number(index));
  };
  return h(
    "div",
    { class: "tokens" },
    h(
      "p",
      {
        ...{
          class: "token-text",
          tabIndex: 0,
          role: "group",
          "aria-label": "Tokens. Arrow keys go from one to the next.",
        },
        ...{ onKeyDown: go, onMouseOver: over, onClick: over },
      },
      tokens.map(({ text, logprob }, index) =>
        h("span", { "data-index": index, class: `s${surprise(logprob)}${index === at ? " here" : ""}` }, text),
      ),
    ),
    token &&
      h(
        "div",
        { class: "token-detail", "aria-live": "polite" },
        h(
          "p",
          null,
          h("code", null, shown(token.text)),
          " ",
          percent(Math.exp(token.logprob)),
          h("span", { class: "faint" }, ` · ln p ${fixed(token.logprob, 3)} · token ${at + 1} of ${tokens.length}`),
        ),
        token.top.length > 0 &&
          h(
            "ul",
            null,
            token.top.map(({ text, logprob }) =>
              h(
                "li",
                { class: text === token.text ? "chosen" : "" },
                h("code", null, shown(text)),
                h("meter", { min: 0, max: 1, value: Math.exp(logprob), "aria-label": "probability" }),
                h("span", null, percent(Math.exp(logprob))),
              ),
            ),
          ),
      ),
  );
}
