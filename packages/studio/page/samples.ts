/** What the model wrote by itself at steps of a run. */
import { Component, type ComponentChild, h } from "preact";
import { whole } from "./figures.ts";
import { getJson } from "./wire.ts";

interface Props {
  run: string;
  files: readonly string[];
  authKey: string;
}

interface Sample {
  prompt: string;
  text: string;
}

/** Most steps that are shown, the last ones. */
const MOST = 24;

export class Samples extends Component<Props, { steps: Record<string, Sample[]> }> {
  override state = { steps: {} as Record<string, Sample[]> };
  readonly #asked = new Set<string>();

  override componentDidMount(): void {
    this.#load();
  }
  override componentDidUpdate(): void {
    this.#load();
  }

  #load(): void {
    const { run, files, authKey } = this.props;
    for (const file of files.slice(-MOST)) {
      const id = `${run} ${file}`;
      if (this.#asked.has(id)) continue;
      this.#asked.add(id);
      const path = `/api/runs/samples?run=${encodeURIComponent(run)}&file=${encodeURIComponent(file)}`;
      getJson(path, authKey).then(
        (samples) => this.setState(({ steps }) => ({ steps: { ...steps, [id]: samples as Sample[] } })),
        () => this.#asked.delete(id),
      );
    }
  }

  override render({ run, files }: Props, { steps }: { steps: Record<string, Sample[]> }): ComponentChild {
    if (!files.length) return h("p", { class: "empty faint" }, "This run has written no samples.");
    return h(
      "div",
      { class: "samples" },
      files
        .slice(-MOST)
        .toReversed()
        .map((file) =>
          h(
            "section",
            { key: file, "aria-label": `Step ${stepOf(file)}` },
            h("h3", null, `Step ${stepOf(file)}`),
            (steps[`${run} ${file}`] ?? []).map(({ prompt, text }) =>
              h("p", { class: "plain" }, h("strong", null, prompt), text),
            ),
          ),
        ),
    );
  }
}

const stepOf = (file: string): string => whole(Number(/\d+/.exec(file)?.[0]));
