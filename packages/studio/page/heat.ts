/** Heat maps over steps, one a layer: the load of every expert, and the largest logit of every head with what was clipped. */
import { Component, type ComponentChild, createRef, h } from "preact";
import { figure, whole } from "./figures.ts";
import { inkOf } from "./ink.ts";
import type { Detail, RunData } from "./run-data.ts";

export interface Map2d {
  title: string;
  /** What a row is: expert, head. */
  row: string;
  steps: number[];
  /** [column][row]. */
  values: number[][];
  /** 0 to 1, of each value: a place on the scale of colours. */
  level(value: number): number;
  /** Diverging: ½ is even. */
  diverging: boolean;
  /** [column][row]: whether something was done there. */
  marked?: boolean[][];
  say(value: number): string;
  summary: string;
}

const columnsOf = (details: readonly Detail[], key: "expertLoad" | "maxLogits") => details.filter((one) => one[key]);

/** A layer's experts: load over the mean load, from a quarter (idle) over 1 (even) to four times (overloaded). */
export function expertMaps({ details }: RunData): Map2d[] {
  const seen = columnsOf(details, "expertLoad");
  const layers = Math.max(0, ...seen.map(({ expertLoad }) => expertLoad!.length));
  return Array.from({ length: layers }, (_, layer): Map2d => {
    const columns = seen.filter(({ expertLoad }) => expertLoad![layer]);
    const values = columns.map(({ expertLoad }) => {
      const loads = expertLoad![layer]!;
      const mean = loads.reduce((a, b) => a + b, 0) / loads.length || 1;
      return loads.map((load) => load / mean);
    });
    const last = values.at(-1) ?? [];
    const [most, least] = [Math.max(...last), Math.min(...last)];
    return {
      title: `MoE layer ${layer + 1}`,
      ...{ row: "expert", steps: columns.map(({ step }) => step), values, diverging: true },
      level: (value) => Math.min(1, Math.max(0, 0.5 + Math.log2(Math.max(value, 1e-9)) / 4)),
      say: (value) => `${figure(value)} × the mean`,
      summary: `now expert ${last.indexOf(most)} has most, ${figure(most)} × the mean, and expert ${last.indexOf(least)} least, ${figure(least)} ×`,
    };
  });
}

/** A layer's heads: the largest attention logit, against QK-Clip's threshold where there is one. */
export function logitMaps({ details }: RunData, tau: number | undefined): Map2d[] {
  const seen = columnsOf(details, "maxLogits");
  const layers = Math.max(0, ...seen.map(({ maxLogits }) => maxLogits!.length));
  const top = tau ?? Math.max(1e-9, ...seen.flatMap(({ maxLogits }) => maxLogits!.map((row) => Math.max(...row))));
  return Array.from({ length: layers }, (_, layer): Map2d => {
    const columns = seen.filter(({ maxLogits }) => maxLogits![layer]);
    const values = columns.map(({ maxLogits }) => maxLogits![layer]!);
    const marked = columns.map(({ maxLogits, maxLogitsAfter }) =>
      maxLogits![layer]!.map((value, head) => {
        const after = maxLogitsAfter?.[layer]?.[head];
        return after !== undefined && after < value * (1 - 1e-6);
      }),
    );
    const clips = marked.flat().filter(Boolean).length;
    const last = values.at(-1) ?? [];
    const most = Math.max(...last);
    return {
      title: `Layer ${layer + 1}`,
      ...{ row: "head", steps: columns.map(({ step }) => step), values, marked, diverging: false },
      level: (value) => Math.min(1, Math.max(0, value / top)),
      say: (value) => figure(value),
      summary: `now head ${last.indexOf(most)} has the largest, ${figure(most)}; clipped ${clips} times in what is shown`,
    };
  });
}

const HEIGHT = 150;

interface Props {
  map: Map2d;
  /** What else decides how it looks. */
  version: string;
}
interface State {
  at?: { column: number; row: number } | undefined;
}

export class Heat extends Component<Props, State> {
  override state: State = {};
  readonly #canvas = createRef<HTMLCanvasElement>();
  #sized: ResizeObserver | undefined;

  override componentDidMount(): void {
    this.#sized = new ResizeObserver(() => this.#draw());
    this.#sized.observe(this.#canvas.current!);
    this.#draw();
  }
  override componentWillUnmount(): void {
    this.#sized?.disconnect();
  }
  override componentDidUpdate(): void {
    this.#draw();
  }
  override shouldComponentUpdate(next: { version: string }, state: object): boolean {
    return next.version !== this.props.version || state !== this.state;
  }

  #draw(): void {
    const canvas = this.#canvas.current;
    const { values, level, diverging, marked } = this.props.map;
    const [columns, rows] = [values.length, values[0]?.length ?? 0];
    if (!canvas?.clientWidth || !columns || !rows) return;
    const small = new OffscreenCanvas(columns, rows);
    const pixels = new ImageData(columns, rows);
    const scale = (diverging ? ["--cold", "--even", "--hot"] : ["--even", "--mild", "--hot"]).map((ink) =>
      rgb(inkOf(ink)),
    );
    for (let c = 0; c < columns; c++)
      for (let r = 0; r < rows; r++) {
        const at = 2 * level(values[c]![r]!);
        const [a, b] = at < 1 ? [scale[0]!, scale[1]!] : [scale[1]!, scale[2]!];
        const part = at < 1 ? at : at - 1;
        for (let k = 0; k < 3; k++) pixels.data[4 * (r * columns + c) + k] = a[k]! + (b[k]! - a[k]!) * part;
        pixels.data[4 * (r * columns + c) + 3] = 255;
      }
    small.getContext("2d")!.putImageData(pixels, 0, 0);
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const g = canvas.getContext("2d")!;
    g.scale(ratio, ratio);
    g.imageSmoothingEnabled = false;
    g.drawImage(small, 0, 0, width, height);
    const [w, ht] = [width / columns, height / rows];
    // Lines between rows while there is room for them.
    if (ht > 6) {
      g.fillStyle = inkOf("--raised");
      for (let r = 1; r < rows; r++) g.fillRect(0, Math.round(r * ht) - 0.5, width, 1);
    }
    if (!marked) return;
    g.fillStyle = inkOf("--ink");
    for (let c = 0; c < columns; c++)
      for (let r = 0; r < rows; r++)
        if (marked[c]![r]) {
          g.beginPath();
          g.arc((c + 0.5) * w, (r + 0.5) * ht, Math.min(2.5, Math.max(1, ht / 4)), 0, 7);
          g.fill();
        }
  }

  #go(column: number, row: number): void {
    const { values } = this.props.map;
    const within = (n: number, most: number) => Math.max(0, Math.min(most - 1, n));
    this.setState({ at: { column: within(column, values.length), row: within(row, values[0]?.length ?? 1) } });
  }

  override render({ map }: Props, { at }: State): ComponentChild {
    const { values, steps, row: what, say, summary, marked } = map;
    const rows = values[0]?.length ?? 0;
    const here = at && values[at.column]?.[at.row] !== undefined ? at : undefined;
    const onMove = (event: PointerEvent) => {
      const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
      const share = (value: number, from: number, size: number) => (value - from) / size;
      this.#go(
        Math.floor(share(event.clientX, box.left, box.width) * values.length),
        Math.floor(share(event.clientY, box.top, box.height) * rows),
      );
    };
    const onKey = (event: KeyboardEvent) => {
      const { column, row } = here ?? { column: values.length - 1, row: 0 };
      const moves: Record<string, [number, number]> = {
        ArrowLeft: [column - 1, row],
        ArrowRight: [column + 1, row],
        ArrowUp: [column, row - 1],
        ArrowDown: [column, row + 1],
      };
      const to = moves[event.key];
      if (!to) return;
      event.preventDefault();
      this.#go(...to);
    };
    return h(
      "section",
      { class: "heat", "aria-label": map.title },
      h("h3", null, map.title),
      h(
        "div",
        {
          ...{ class: "map", tabIndex: 0, role: "group", onPointerMove: onMove, onKeyDown: onKey },
          onPointerLeave: () => this.setState({ at: undefined }),
          "aria-label": `${map.title}, ${rows} ${what}s over steps ${steps[0]} to ${steps.at(-1)}: ${summary}. Arrow keys go from cell to cell.`,
        },
        h("canvas", { ref: this.#canvas, "aria-hidden": true, height: HEIGHT }),
      ),
      h(
        "p",
        { class: "faint ends" },
        h("span", null, `step ${whole(steps[0]!)}`),
        h("span", null, `${rows} ${what}s`),
        h("span", null, whole(steps.at(-1)!)),
      ),
      h(
        "p",
        { class: "said", "aria-live": "polite" },
        here
          ? `${what} ${here.row}, step ${whole(steps[here.column]!)}: ${say(values[here.column]![here.row]!)}${marked?.[here.column]?.[here.row] ? ", clipped" : ""}`
          : summary[0]!.toUpperCase() + summary.slice(1),
      ),
    );
  }
}

const rgb = (colour: string): number[] => {
  const numbers = colour.match(/[\d.]+/g)!.map(Number);
  // A colour that was mixed comes as shares of 1.
  return colour.startsWith("color(") ? numbers.slice(-3).map((n) => n * 255) : numbers;
};
