/** The chat page. */
import { h, render } from "preact";
import { open } from "./answer.ts";
import { whole } from "./figures.ts";
import { Mark } from "./mark.ts";
import { AnswerView, SaidView, TroubleView } from "./message.ts";
import { Pages } from "./pages.ts";
import { endPlay, findWorlds, mayspeak, playWorld, sayInWorld } from "./play.ts";
import { Select } from "./select.ts";
import { Panel } from "./settings.ts";
import * as page from "./state.ts";
import { change, state } from "./state.ts";
import { showTheme, systemDark, ThemeButton } from "./theme.ts";
import { BriefView, VerdictView, WorldChoice } from "./world.ts";

function Header() {
  const { models, settings, panel, theme } = state;
  return h(
    "header",
    { class: "top" },
    h("h1", null, h(Mark, null), "Massif"),
    h(Pages, { here: "/" }),
    models.length > 1
      ? h(Select, {
          ...{ "aria-label": "Model", value: settings.model, options: models.map(({ id }) => [id, id] as const) },
          onSelect: (id: string) => page.set("model", id),
        })
      : settings.model !== "massif" && h("span", { class: "model faint" }, settings.model),
    h(WorldChoice, null),
    h("span", { class: "gap" }),
    h(
      "button",
      {
        ...{ type: "button", disabled: !state.turns.length },
        onClick: () => (state.play ? void playWorld(state.play.world) : page.reset()),
      },
      "New",
    ),
    h(ThemeButton, { theme, onTheme: page.setTheme }),
    h(
      "button",
      {
        ...{ type: "button", "aria-expanded": panel, "aria-controls": "settings" },
        onClick: () => change({ panel: !panel }),
      },
      "Settings",
    ),
  );
}

function Conversation() {
  const { turns, plain, play } = state;
  const busy = !!page.running();
  return h(
    "div",
    { class: "conversation" },
    play && h(BriefView, { play }),
    turns.map((turn, index) =>
      turn.role === "user"
        ? h(SaidView, { key: index, turn, index })
        : h(AnswerView, { key: index, turn, index, version: turn.version, plain, busy }),
    ),
    play && h(VerdictView, { play }),
  );
}

function Welcome() {
  const { trouble, settings } = state;
  return h(
    "div",
    { class: "welcome" },
    h(Mark, null),
    trouble
      ? h(TroubleView, { trouble, retry: () => void page.findModels() })
      : h("p", null, settings.model ? `${settings.model} is listening.` : "Looking for the model …"),
    h("p", { class: "faint" }, "Nothing is kept when you leave, unless you ask for it under Settings."),
  );
}

/** Who writes with thumbs has an Enter that makes a new line, as on all phones. */
const touch = matchMedia("(pointer: coarse)").matches;
const how = touch ? "" : "Enter sends, Shift+Enter makes a new line";

function Composer() {
  const { draft, count, models, settings, play } = state;
  const busy = !!page.running();
  const say = () => (play ? void sayInWorld(state.draft) : page.send());
  const waiting = open(state.turns.at(-1)).length;
  const context = models.find(({ id }) => id === settings.model)?.context;
  const problem = page.firstProblem();
  const hint = problem
    ? "Settings have a problem: see there."
    : play
      ? play.verdict
        ? "The conversation is over."
        : mayspeak()
          ? `Your turn. ${how}`
          : "The model is at work."
      : waiting
        ? `${waiting === 1 ? "A call waits" : `${waiting} calls wait`} for a result above.`
        : count !== undefined && draft
          ? `${whole(count)}${context ? ` of ${whole(context)}` : ""} tokens`
          : how;
  return h(
    "form",
    {
      class: "composer",
      onSubmit: (event: Event) => {
        event.preventDefault();
        if (busy && !play) page.stop();
        else say();
      },
    },
    h(
      "div",
      { class: "box" },
      h("textarea", {
        ...{ id: "message", "aria-label": "Message", "aria-describedby": "hint", value: draft },
        ...{ placeholder: play ? "Say it as the user" : "Message", disabled: !!play?.verdict },
        rows: Math.min(10, draft.split("\n").length),
        onInput: (event: Event) => {
          change({ draft: (event.target as HTMLTextAreaElement).value });
          if (!play) page.countTokens();
        },
        onKeyDown: (event: KeyboardEvent) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch) return;
          event.preventDefault();
          say();
        },
      }),
      play &&
        !play.verdict &&
        state.turns.length > 0 &&
        h("button", { type: "button", disabled: !mayspeak(), onClick: () => void endPlay() }, "That is all"),
      h(
        "button",
        {
          ...{ type: "submit", class: "primary" },
          disabled: play ? !mayspeak() || !draft.trim() : !busy && !(page.ready() && draft.trim()),
        },
        busy && !play ? "Stop" : "Send",
      ),
    ),
    h("p", { id: "hint", class: problem ? "problem" : "faint" }, hint),
  );
}

const App = () =>
  h(
    "div",
    { class: `app${state.panel ? " with-panel" : ""}` },
    h(Header, null),
    h("main", null, state.turns.length || state.play ? h(Conversation, null) : h(Welcome, null)),
    h(Composer, null),
    state.panel && h(Panel, null),
    h("p", { class: "notice", role: "status" }, state.notice),
  );

/** A button that has gone, or does nothing any more, hands the keyboard on to what comes next. */
function keepFocus(before: HTMLElement | null): void {
  if (touch || !before || (before.isConnected && !before.matches(":disabled"))) return;
  document.querySelector<HTMLElement>("#message:enabled, main .verdict .primary")?.focus();
}

/** The end stays in sight while it grows, unless one has scrolled away from it. */
function draw(): void {
  showTheme(state.theme);
  const main = document.querySelector("main");
  const atEnd = state.toEnd || !main || main.scrollHeight - main.scrollTop - main.clientHeight < 48;
  state.toEnd = false;
  const focused = document.activeElement as HTMLElement | null;
  render(h(App, null), document.body);
  keepFocus(focused);
  const now = document.querySelector("main")!;
  if (atEnd) now.scrollTop = now.scrollHeight;
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (page.running() && !state.play) page.stop();
  else if (state.panel) change({ panel: false });
});
systemDark.addEventListener("change", () => change());

page.onChange(draw);
page.recall();
draw();
document.querySelector<HTMLTextAreaElement>("#message")!.focus();
void page.findModels();
void findWorlds();
