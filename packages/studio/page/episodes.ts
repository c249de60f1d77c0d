/** Episodes of a run: which there are, and one of them as it went. */
import { Component, type ComponentChild, h } from "preact";
import { type Episode, EpisodeView, goalOf, succeeded, textOf } from "./episode.ts";
import { whole } from "./figures.ts";
import { labelled } from "./select.ts";
import { getJson } from "./wire.ts";

interface Props {
  run: string;
  files: readonly string[];
  authKey: string;
}
interface State {
  file?: string;
  rows?: Episode[];
  trouble?: string;
  outcome: "all" | "success" | "fail";
  world: string;
  at: number;
}

/** "step-60.jsonl" as people say it. */
const nameOf = (file: string): string => {
  const step = whole(Number(/step-(\d+)/.exec(file)?.[1]));
  return file.startsWith("train-") ? `step ${step}, in training` : `step ${step}, held out`;
};

export class Episodes extends Component<Props, State> {
  override state: State = { outcome: "all", world: "", at: 0 };
  #asked = "";

  override componentDidMount(): void {
    void this.#load();
  }
  override componentDidUpdate(before: Props): void {
    if (before.run !== this.props.run) this.setState({ file: undefined, rows: undefined, at: 0 } as never);
    void this.#load();
  }

  get #file(): string | undefined {
    const { files } = this.props;
    const { file } = this.state;
    return file && files.includes(file) ? file : files.at(-1);
  }

  async #load(): Promise<void> {
    const { run, authKey } = this.props;
    const file = this.#file;
    const asked = `${run} ${file}`;
    if (!file || asked === this.#asked) return;
    this.#asked = asked;
    try {
      const path = `/api/runs/episodes?run=${encodeURIComponent(run)}&file=${encodeURIComponent(file)}`;
      const { rows } = (await getJson(path, authKey)) as { rows: Episode[] };
      if (this.#asked === asked) this.setState({ rows, trouble: "", at: 0 });
    } catch (error) {
      if (this.#asked === asked) this.setState({ rows: [], trouble: (error as Error).message });
    }
  }

  override render({ files }: Props, { rows = [], trouble, outcome, world, at }: State): ComponentChild {
    if (!files.length)
      return h(
        "p",
        { class: "empty faint" },
        "This run has kept no episodes. Those of worlds appear at its evaluations.",
      );
    const worlds = [...new Set(rows.map(({ task }) => task?.world ?? "no world"))].sort();
    const kept = rows.filter(
      (row) =>
        (outcome === "all" || succeeded(row) === (outcome === "success")) &&
        (!worlds.includes(world) || (row.task?.world ?? "no world") === world),
    );
    const one = kept[Math.min(at, kept.length - 1)];
    const count = (of: State["outcome"]) => rows.filter((row) => succeeded(row) === (of === "success")).length;
    return h(
      "div",
      { class: "episodes" },
      h(
        "div",
        { class: "filters" },
        labelled("Step", {
          value: this.#file ?? "",
          options: files.toReversed().map((file) => [file, nameOf(file)]),
          onSelect: (file) => this.setState({ file, at: 0 }),
        }),
        labelled<State["outcome"]>("Outcome", {
          value: outcome,
          options: [
            ["all", `all (${rows.length})`],
            ["success", `success (${count("success")})`],
            ["fail", `failed (${count("fail")})`],
          ],
          onSelect: (outcome) => this.setState({ outcome, at: 0 }),
        }),
        worlds.length > 1 &&
          labelled("World", {
            value: world,
            options: [["", "all"], ...worlds.map((name) => [name, name] as const)],
            onSelect: (world) => this.setState({ world, at: 0 }),
          }),
      ),
      trouble && h("p", { class: "problem", role: "alert" }, trouble),
      h(
        "div",
        { class: "two" },
        h(
          "ol",
          { class: "list", "aria-label": "Episodes" },
          kept.map((row, i) =>
            h(
              "li",
              { key: row.id },
              h(
                "button",
                {
                  type: "button",
                  "aria-current": row === one ? "true" : undefined,
                  onClick: () => this.setState({ at: i }),
                },
                h("span", { class: succeeded(row) ? "won" : "lost", "aria-hidden": true }, succeeded(row) ? "✓" : "✗"),
                h(
                  "span",
                  null,
                  h("strong", null, row.task?.world ?? "episode"),
                  ` ${goalOf(row)}`,
                  h("span", { class: "unseen" }, succeeded(row) ? ", success" : ", failed"),
                  h("small", { class: "faint" }, opening(row)),
                ),
              ),
            ),
          ),
          !kept.length && h("li", { class: "faint empty" }, "None of these."),
        ),
        one && h(EpisodeView, { key: one.id, episode: one }),
      ),
    );
  }
}

const opening = ({ messages }: Episode): string => textOf(messages.find(({ role }) => role === "user")).slice(0, 120);
