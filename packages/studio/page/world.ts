/** What stands around a conversation in a world: the choice of one, the brief of who plays its user, the verdict. */
import { h } from "preact";
import { TroubleView } from "./message.ts";
import { doAct, mayspeak, type Played, playWorld } from "./play.ts";
import { Select } from "./select.ts";
import { change, state } from "./state.ts";

export function WorldChoice() {
  const { worlds, play } = state;
  if (!worlds.length) return null;
  return h(Select, {
    ...{ class: "world-choice", "aria-label": "World", title: "Play the user of a world", value: play?.world ?? "" },
    options: [["", play ? "Leave the world" : "Play …"], ...worlds.map(({ world }) => [world, world] as const)],
    onSelect: (world: string) => void playWorld(world),
  });
}

const many = (n: number, what: string): string => (n > 1 ? `${n} ${what}s` : n ? `a ${what}` : "");

export function BriefView({ play }: { play: Played }) {
  const { brief, tools, rules, done, verdict } = play;
  const begun = state.turns.length > 0;
  return h(
    "section",
    { class: "brief", "aria-label": "Your part" },
    h("h2", null, "You are the user"),
    h("p", { class: "goal" }, "“", brief.goal, "”"),
    h(
      "p",
      { class: "faint" },
      "This is what you want. Say it in your own words; the model’s calls run in the world, and when you end the conversation the world is judged.",
    ),
    brief.facts.length > 0 && [
      h("h3", null, "What you know, if you are asked"),
      h(
        "ul",
        null,
        brief.facts.map((fact) => h("li", null, fact)),
      ),
    ],
    brief.acts.length > 0 && [
      h("h3", null, "What you can do yourself"),
      h(
        "div",
        { class: "row" },
        brief.acts.map((act, i) =>
          h(
            "button",
            { type: "button", disabled: !mayspeak() || done.includes(i) || !begun, onClick: () => void doAct(i) },
            done.includes(i) ? `✓ ${act}` : act,
          ),
        ),
      ),
    ],
    !begun &&
      !verdict &&
      h(
        "div",
        { class: "row" },
        h(
          "button",
          {
            type: "button",
            onClick: () => {
              change({ draft: brief.goal });
              document.querySelector<HTMLTextAreaElement>("#message")?.focus();
            },
          },
          "Use these words",
        ),
        h("button", { type: "button", onClick: () => void playWorld(play.world) }, "Another task"),
      ),
    h(
      "details",
      null,
      h(
        "summary",
        null,
        `The model has ${[many(tools.length, "tool"), many(rules.length, "rule")].filter(Boolean).join(" and ")}`,
      ),
      rules.length > 0 &&
        h(
          "ul",
          null,
          rules.map((rule) => h("li", null, rule)),
        ),
      h(
        "dl",
        null,
        tools.map(({ name, description }) => [
          h("dt", null, h("code", null, name)),
          h("dd", { class: "faint" }, description),
        ]),
      ),
    ),
  );
}

const names: Record<string, string> = {
  ended: "ended with an answer",
  calls: "as many calls as are allowed, and no wrong ones",
  policy: "no rule was broken",
  change: "nothing else was changed",
  require: "the world is as you asked",
  evidence: "what had to be looked at was looked at",
  tell: "what you asked for was told, and is true",
  speech: "the answer is of the right kind",
};

const endings: Record<string, string> = {
  steps: "The model had no messages left.",
  tokens: "The model had no tokens left.",
  length: "A message of the model was too long.",
  context: "The conversation was too long for the model.",
};

export function VerdictView({ play }: { play: Played }) {
  const { verdict, trouble, world, seed } = play;
  if (trouble) return h(TroubleView, { trouble, retry: () => void playWorld(world) });
  if (!verdict) return null;
  const { success, ended, checks } = verdict;
  const [held, wrong] = [checks.filter(({ ok }) => ok), checks.filter(({ ok }) => !ok)];
  return h(
    "section",
    { class: `verdict ${success ? "won" : "lost"}`, role: "region", "aria-label": "Verdict" },
    h("h2", null, success ? "✓ Success" : "✗ Failed"),
    wrong.length > 0 &&
      h(
        "ul",
        null,
        wrong.map(({ name, why }) =>
          h("li", null, h("strong", null, "Not so: "), names[name] ?? name, why && ` – ${why}`),
        ),
      ),
    h(
      "details",
      null,
      h("summary", null, `${held.length} of ${checks.length} checks hold`),
      h(
        "ul",
        null,
        held.map(({ name }) => h("li", null, h("span", { "aria-hidden": true }, "✓ "), names[name] ?? name)),
      ),
    ),
    h(
      "p",
      { class: "faint" },
      [endings[ended], `${world}, task ${play.brief.task}, seed ${seed}`].filter(Boolean).join(" "),
    ),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "primary", onClick: () => void playWorld(world) }, "Another task"),
      h("button", { type: "button", onClick: () => void playWorld("") }, "Leave the world"),
    ),
  );
}
