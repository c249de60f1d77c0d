/** A choice of one among few. */
import { type ComponentChild, h } from "preact";

type Option<V extends string> = readonly [value: V, text: ComponentChild];

type Choice<V extends string> = {
  value: V;
  options: readonly Option<V>[];
  onSelect(value: V): void;
};

export const Select = <V extends string>({ value, options, onSelect, ...more }: Choice<V> & Record<string, unknown>) =>
  h(
    "select",
    { ...more, onChange: (event: Event) => onSelect((event.target as HTMLSelectElement).value as V) },
    options.map(([key, text]) => h("option", { key, value: key, selected: key === value }, text)),
  );

/** With its label before it. */
export const labelled = <V extends string>(label: string, choice: Choice<V>) =>
  h("label", null, h("span", null, label), h(Select<V>, choice));
