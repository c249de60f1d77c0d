/** One chart: its lines, the cursor that all charts share, and what both say to those who do not see them. */
import { Component, type ComponentChild, createRef, h } from "preact";
import type { ChartSpec } from "./curated.ts";
import { duration, figure, whole } from "./figures.ts";
import { oncePerFrame } from "./frame.ts";
import { inkOf } from "./ink.ts";
import { extent, type Line, linesOf, marksOf, type Shown, troublesOf, valueAt } from "./line.ts";
import { type Axes, drawScene, EDGE, type Stroke } from "./plot.ts";
import type { XAxis } from "./run-data.ts";
import { decimate, smooth } from "./series.ts";

export interface ChartProps {
  spec: ChartSpec;
  runs: readonly Shown[];
  axis: XAxis;
  /** The part of the axis that is seen; all where undefined. */
  window: { from: number; to: number } | undefined;
  /** Share of the window that a mean is taken over. */
  smoothing: number;
  /** What else decides how it looks: versions of runs, colours of the page. */
  version: string;
  onWindow(window: { from: number; to: number } | undefined): void;
}

const charts = new Set<Chart>();

/** Draws what has changed and is seen. */
const drawSoon = oncePerFrame(() => {
  const start = performance.now();
  let drawn = 0;
  for (const chart of charts) if (chart.drawIfSeen()) drawn++;
  if (drawn) performance.measure("draw", { start });
});

function setCursor(x: number | undefined): void {
  for (const chart of charts) chart.showCursor(x);
}

export class Chart extends Component<ChartProps, { log: boolean; hidden: ReadonlySet<string>; said: string }> {
  override state = { log: this.props.spec.log ?? false, hidden: new Set<string>(), said: "" };
  readonly #plot = createRef<HTMLDivElement>();
  readonly #canvas = createRef<HTMLCanvasElement>();
  readonly #cursor = createRef<HTMLDivElement>();
  readonly #band = createRef<HTMLDivElement>();
  readonly #values = new Map<string, HTMLElement>();
  #axes: Axes | undefined;
  #lines: Line[] = [];
  #dirty = true;
  #seen = false;
  #watch: IntersectionObserver | undefined;
  #sized: ResizeObserver | undefined;
  #at: number | undefined;
  #drag: number | undefined;

  override componentDidMount(): void {
    charts.add(this);
    this.#watch = new IntersectionObserver(
      ([entry]) => {
        this.#seen = entry!.isIntersecting;
        drawSoon();
      },
      { rootMargin: "200px" },
    );
    this.#sized = new ResizeObserver(() => this.#redraw());
    this.#watch.observe(this.#plot.current!);
    this.#sized.observe(this.#plot.current!);
  }
  override componentWillUnmount(): void {
    charts.delete(this);
    this.#watch?.disconnect();
    this.#sized?.disconnect();
  }
  override componentDidUpdate(): void {
    this.#redraw();
  }
  override shouldComponentUpdate(next: ChartProps, state: Chart["state"]): boolean {
    const { version, axis, window, smoothing, runs } = this.props;
    return (
      state !== this.state ||
      next.version !== version ||
      next.axis !== axis ||
      next.window !== window ||
      next.smoothing !== smoothing ||
      next.runs !== runs
    );
  }

  #redraw(): void {
    this.#dirty = true;
    drawSoon();
  }

  get #shown(): Line[] {
    return this.#lines.filter(({ id }) => !this.state.hidden.has(id));
  }

  /** Without a window all rows of the runs that have a line here: a short run is not squeezed by a longer one elsewhere. */
  get #range(): { from: number; to: number } {
    return this.props.window ?? extent(this.#lines, this.props.axis);
  }

  drawIfSeen(): boolean {
    const box = this.#plot.current;
    if (!this.#dirty || !this.#seen || !box?.clientWidth) return false;
    this.#dirty = false;
    const { spec, axis, smoothing } = this.props;
    const shown = this.#shown;
    const { from, to } = this.#range;
    const window = { from, to, width: box.clientWidth - EDGE.left - EDGE.right };
    const strokes = shown.map(({ x, y, colour, dash }): Stroke => {
      const raw = decimate(x.values, y, window);
      // A mean of few points says less than they do.
      const soft = raw.points * smoothing >= 3 ? smooth(x.values, y, window, smoothing) : undefined;
      return { raw, ...(soft && { smooth: soft }), colour: inkOf(`--run-${colour}`), dash };
    });
    const ones = [...new Set(shown.map(({ run }) => run))];
    this.#axes = drawScene(this.#canvas.current!, box.clientWidth, box.clientHeight, {
      ...{ strokes, from, to, log: this.state.log, share: spec.share ?? false },
      ...(spec.level && { level: spec.level }),
      troubles: ones.flatMap((run) => troublesOf(run, axis)),
      marks: spec.marks ? ones.flatMap((run) => marksOf(run, spec.marks!.key, axis, window)) : [],
      showX: axis === "time" ? duration : figure,
      inks: { line: inkOf("--line"), faint: inkOf("--faint"), wrong: inkOf("--wrong"), ground: inkOf("--raised") },
    });
    this.showCursor(this.#at);
    return true;
  }

  /** Values at a place on the axis; without one the last. */
  showCursor(x: number | undefined): void {
    this.#at = x;
    const cursor = this.#cursor.current;
    if (!cursor || !this.#axes) return;
    const left = x === undefined ? -1 : this.#axes.xAt(x);
    const within = left >= EDGE.left && left <= this.#plot.current!.clientWidth - EDGE.right + 1;
    cursor.hidden = !within;
    if (within) cursor.style.translate = `${left}px`;
    for (const line of this.#lines) {
      const element = this.#values.get(line.id);
      const text = figure(valueAt(line, x));
      if (element && element.textContent !== text) element.textContent = text;
    }
    if (within) cursor.dataset.x = this.#sayX(x!);
  }

  #sayX(x: number): string {
    const { axis } = this.props;
    const value = axis === "step" ? whole(x) : axis === "time" ? duration(x) : figure(x);
    return axis === "step" ? `step ${value}` : axis === "tokens" ? `${value} tokens` : value;
  }

  readonly #onMove = (event: PointerEvent) => {
    if (!this.#axes) return;
    const x = event.clientX - this.#plot.current!.getBoundingClientRect().left;
    const band = this.#band.current!;
    if (this.#drag !== undefined) {
      const [a, b] = [Math.min(x, this.#drag), Math.max(x, this.#drag)];
      band.hidden = b - a < 4;
      band.style.translate = `${a}px`;
      band.style.width = `${b - a}px`;
    }
    setCursor(this.#axes.valueAt(x));
  };
  readonly #onDown = (event: PointerEvent) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return this.#onMove(event);
    this.#drag = event.clientX - this.#plot.current!.getBoundingClientRect().left;
    this.#plot.current!.setPointerCapture(event.pointerId);
  };
  readonly #onUp = (event: PointerEvent) => {
    const begun = this.#drag;
    this.#drag = undefined;
    this.#band.current!.hidden = true;
    if (begun === undefined || !this.#axes) return;
    const x = event.clientX - this.#plot.current!.getBoundingClientRect().left;
    if (Math.abs(x - begun) < 6) return;
    const [from, to] = [this.#axes.valueAt(Math.min(x, begun)), this.#axes.valueAt(Math.max(x, begun))];
    this.props.onWindow({ from, to });
  };
  readonly #onKey = (event: KeyboardEvent) => {
    const { onWindow } = this.props;
    const { from, to } = this.#range;
    const at = this.#at ?? to;
    const step = (to - from) / 100;
    const zoom = (by: number) => onWindow({ from: at - (at - from) * by, to: at + (to - at) * by });
    const moves: Record<string, () => void> = {
      ArrowLeft: () => setCursor(Math.max(from, at - step)),
      ArrowRight: () => setCursor(Math.min(to, at + step)),
      Home: () => setCursor(from),
      End: () => setCursor(to),
      "+": () => zoom(0.5),
      "-": () => (this.props.window ? zoom(2) : undefined),
      Escape: () => {
        setCursor(undefined);
        onWindow(undefined);
      },
    };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move();
    this.setState({ said: this.#at === undefined ? "" : `${this.#sayX(this.#at)}: ${this.#say(this.#at)}` });
  };

  #say(x: number | undefined): string {
    return this.#shown.map((one) => `${one.label || this.props.spec.title} ${figure(valueAt(one, x))}`).join(", ");
  }

  override render(props: ChartProps, { log, hidden, said }: Chart["state"]): ComponentChild {
    const { spec } = props;
    this.#lines = linesOf(spec, props.runs, props.axis);
    const toggle = (id: string) => {
      const next = new Set(hidden);
      if (!next.delete(id)) next.add(id);
      this.setState({ hidden: next });
    };
    return h(
      "section",
      { class: "chart", "aria-label": spec.title },
      h(
        "header",
        null,
        h("h3", null, spec.title),
        h(
          "button",
          {
            ...{ type: "button", class: "log", "aria-pressed": log, title: "Logarithmic axis" },
            onClick: () => this.setState({ log: !log }),
          },
          "log",
        ),
      ),
      h(
        "ul",
        { class: "legend" },
        this.#lines.map(({ id, label, colour, dash }) =>
          h(
            "li",
            { key: id },
            h(
              "button",
              {
                ...{ type: "button", "aria-pressed": !hidden.has(id), disabled: this.#lines.length === 1 },
                ...{ onClick: () => toggle(id), "aria-label": `${label || spec.title}: shown`, title: label },
              },
              h("span", { key: "swatch", class: `swatch run-${colour}${dash.length ? " dashed" : ""}` }),
              label && h("span", { key: "name", class: "name" }, label),
              h("span", {
                key: "value",
                class: "value",
                ref: (element: HTMLElement | null) =>
                  element ? void this.#values.set(id, element) : void this.#values.delete(id),
              }),
            ),
          ),
        ),
      ),
      h(
        "div",
        {
          ...{ class: "plot", ref: this.#plot, tabIndex: 0, role: "group" },
          "aria-label": `Curves of ${spec.title}. Now: ${this.#say(undefined)}. Arrow keys move the cursor, plus and minus zoom, Escape shows all.`,
          ...{ onPointerMove: this.#onMove, onPointerDown: this.#onDown, onPointerUp: this.#onUp },
          ...{ onPointerLeave: () => this.#drag === undefined && setCursor(undefined), onKeyDown: this.#onKey },
          onDblClick: () => props.onWindow(undefined),
        },
        h("canvas", { ref: this.#canvas, "aria-hidden": true }),
        h("div", { class: "cursor", ref: this.#cursor, hidden: true }),
        h("div", { class: "band", ref: this.#band, hidden: true }),
      ),
      h("p", { class: "unseen", role: "status" }, said),
    );
  }
}
