/** The panel at the side: what is sent with every message, and how the page looks. */
import { type ComponentChild, h } from "preact";
import { findWorlds } from "./play.ts";
import { numberFields, problemsOf, readTools, type Settings } from "./request.ts";
import { Select } from "./select.ts";
import { change, findModels, keep, set, setTheme, state } from "./state.ts";
import type { Theme } from "./theme.ts";

const example = JSON.stringify(
  [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "The weather in a city now.",
        parameters: {
          type: "object",
          properties: { city: { type: "string" }, unit: { enum: ["celsius", "fahrenheit"] } },
          required: ["city"],
          additionalProperties: false,
        },
      },
    },
  ],
  null,
  2,
);

type TextKey = { [K in keyof Settings]: Settings[K] extends string ? K : never }[keyof Settings];
const textOf = (event: Event) => (event.target as HTMLInputElement).value;
const checkedOf = (event: Event) => (event.target as HTMLInputElement).checked;

/** A labelled field with its problem beneath, which screen readers hear with it. */
function field(key: string, label: string, problem: string | undefined, input: (aria: object) => ComponentChild) {
  const id = `set-${key}`;
  return h(
    "div",
    { class: "field", key },
    h("label", { for: id }, label),
    input({ id, ...(problem && { "aria-invalid": true, "aria-describedby": `${id}-problem` }) }),
    problem && h("p", { class: "problem", id: `${id}-problem` }, problem),
  );
}

const area =
  (key: TextKey, rows: number, more: object = {}) =>
  (aria: object) =>
    h("textarea", {
      ...aria,
      ...more,
      rows,
      value: state.settings[key],
      onInput: (e: Event) => set(key, textOf(e) as never),
    });

const choice = (key: TextKey, options: [value: string, label: string][]) => (aria: object) =>
  h(Select, { ...aria, value: state.settings[key], options, onSelect: (value: string) => set(key, value as never) });

const check = (label: string, checked: boolean, onChange: (checked: boolean) => void, hint?: string) =>
  h(
    "label",
    { class: "check" },
    h("input", { type: "checkbox", checked, onChange: (event: Event) => onChange(checkedOf(event)) }),
    h("span", null, label, hint && h("span", { class: "faint" }, ` ${hint}`)),
  );

export function Panel() {
  const { settings, theme, plain, remember, key } = state;
  const problems = problemsOf(settings);
  const { names } = readTools(settings.tools);
  const code = { class: "code", spellcheck: false, autocomplete: "off" };
  return h(
    "aside",
    { id: "settings", "aria-label": "Settings" },
    h(
      "section",
      null,
      field("system", "System prompt", undefined, area("system", 3, { placeholder: "None" })),
      field(
        "tools",
        "Tools",
        problems.tools,
        area("tools", settings.tools ? 10 : 2, { ...code, placeholder: "JSON: [ … ]" }),
      ),
      !settings.tools &&
        h("button", { type: "button", class: "link", onClick: () => set("tools", example) }, "Insert an example"),
      names.length > 0 &&
        field(
          "toolChoice",
          "Tool choice",
          undefined,
          choice("toolChoice", [
            ["", "The model decides"],
            ["none", "None"],
            ["required", "At least one"],
            ...names.map((name): [string, string] => [name, `Always ${name}`]),
          ]),
        ),
    ),
    h(
      "section",
      null,
      h("h2", null, "Sampling"),
      h("p", { class: "faint" }, "What is empty is the model’s own default."),
      h(
        "div",
        { class: "numbers" },
        numberFields.map(({ key, label }) =>
          field(key, label, problems[key], (aria) =>
            h("input", {
              ...aria,
              ...{ type: "text", inputMode: "decimal", autocomplete: "off", value: settings[key] },
              onInput: (event: Event) => set(key, textOf(event) as never),
            }),
          ),
        ),
        field(
          "thinking",
          "Thinking",
          undefined,
          choice("thinking", [
            ["", "Default"],
            ["enabled", "On"],
            ["disabled", "Off"],
          ]),
        ),
      ),
      field("stop", "Stop strings, one a line", undefined, area("stop", 1, code)),
      field(
        "extra",
        "More fields",
        problems.extra,
        area("extra", 1, { ...code, placeholder: '{"response_format": …}' }),
      ),
    ),
    h(
      "section",
      null,
      h("h2", null, "Show"),
      check("Log-probabilities", settings.logprobs, (on) => set("logprobs", on), "– how sure of each token"),
      check("Prompt", settings.explain, (on) => set("explain", on), "– what the model was given"),
      check(
        "Plain text",
        plain,
        (on) => {
          change({ plain: on });
          keep();
        },
        "– Markdown as it was written",
      ),
      field("theme", "Colours", undefined, (aria) =>
        h(Select<Theme>, {
          ...{ ...aria, value: theme, onSelect: setTheme },
          options: [
            ["", "As the system"],
            ["light", "Light"],
            ["dark", "Dark"],
          ],
        }),
      ),
    ),
    h(
      "section",
      null,
      field("key", "Key", undefined, (aria) =>
        h("input", {
          ...aria,
          ...{ type: "password", autocomplete: "off", value: key, placeholder: "If the server asks for one" },
          onInput: (event: Event) => change({ key: textOf(event) }),
          onChange: () => {
            void findModels();
            void findWorlds();
          },
        }),
      ),
      check(
        "Remember in this browser",
        remember,
        (on) => {
          change({ remember: on });
          keep();
        },
        "– conversation and settings, never the key",
      ),
    ),
  );
}
