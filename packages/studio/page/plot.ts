/** Lines on a canvas: axes, ticks, what smoothing leaves of a line with the line itself behind it. */
import { figure } from "./figures.ts";
import { logTicks, type Pixels, ticks } from "./series.ts";

export interface Stroke {
  raw: Pixels;
  smooth?: Pixels;
  colour: string;
  dash: readonly number[];
}

export interface Scene {
  strokes: readonly Stroke[];
  /** Values of x at the left and right edge. */
  from: number;
  to: number;
  log: boolean;
  share: boolean;
  level?: { at: number; label: string };
  /** Places on x of what went wrong, and of marks at the foot. */
  troubles: readonly number[];
  marks: readonly number[];
  showX(value: number): string;
  inks: { line: string; faint: string; wrong: string; ground: string };
}

export const EDGE = { left: 50, right: 10, top: 8, bottom: 22 };

/** Where a value is drawn, in CSS pixels from the canvas's corner. */
export interface Axes {
  xAt(value: number): number;
  valueAt(x: number): number;
}

/** Draws into a canvas of `width` × `height` CSS pixels. */
export function drawScene(canvas: HTMLCanvasElement, width: number, height: number, scene: Scene): Axes {
  const ratio = devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const g = canvas.getContext("2d")!;
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  const { from, to, log, inks } = scene;
  const box = { left: EDGE.left, right: width - EDGE.right, top: EDGE.top, bottom: height - EDGE.bottom };
  const [low, high] = range(scene);
  const [a, b] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const yAt = (value: number) => {
    const v = log ? Math.log10(Math.max(value, low)) : value;
    return box.bottom - ((v - a) / (b - a || 1)) * (box.bottom - box.top);
  };
  const xAt = (value: number) => box.left + ((value - from) / (to - from || 1)) * (box.right - box.left);

  g.font = getComputedStyle(canvas).font;
  g.lineWidth = 1;
  g.textBaseline = "middle";
  g.textAlign = "right";
  for (const value of log ? logTicks(low, high) : ticks(low, high, (box.bottom - box.top) / 40)) {
    const y = Math.round(yAt(value)) + 0.5;
    g.strokeStyle = inks.line;
    line(g, box.left, y, box.right, y);
    g.fillStyle = inks.faint;
    g.fillText(figure(Math.abs(value) < (high - low) * 1e-9 ? 0 : value), box.left - 7, y);
  }
  g.textBaseline = "alphabetic";
  for (const value of ticks(from, to, (box.right - box.left) / 90)) {
    const text = scene.showX(value);
    const half = g.measureText(text).width / 2;
    g.textAlign = "center";
    g.fillText(text, Math.min(Math.max(xAt(value), half), width - half), height - 5);
  }
  g.save();
  g.beginPath();
  g.rect(box.left - 3, 0, box.right - box.left + 6, box.bottom + 3);
  g.clip();
  g.strokeStyle = inks.wrong;
  g.setLineDash([3, 3]);
  for (const at of scene.troubles) line(g, Math.round(xAt(at)) + 0.5, box.top, Math.round(xAt(at)) + 0.5, box.bottom);
  const level = scene.level && scene.level.at >= low && scene.level.at <= high ? scene.level : undefined;
  if (level) {
    g.strokeStyle = inks.faint;
    line(g, box.left, Math.round(yAt(level.at)) + 0.5, box.right, Math.round(yAt(level.at)) + 0.5);
  }
  g.setLineDash([]);
  g.fillStyle = inks.wrong;
  for (const at of scene.marks) g.fillRect(xAt(at) - 0.75, box.bottom - 7, 1.5, 7);
  g.lineJoin = "round";
  for (const { raw, smooth, colour, dash } of scene.strokes) {
    g.strokeStyle = g.fillStyle = colour;
    g.lineWidth = 1.5;
    if (smooth) g.globalAlpha = 0.22;
    else g.setLineDash(dash);
    path(g, raw, box.left, yAt, log);
    g.globalAlpha = 1;
    if (smooth) {
      g.setLineDash(dash);
      g.lineWidth = 2;
      path(g, smooth, box.left, yAt, log);
    }
    g.setLineDash([]);
    // Few points are seen one by one.
    if (raw.points > 0 && raw.points < (box.right - box.left) / 12)
      for (let i = 0; i < raw.at.length; i++) {
        const value = raw.parts[4 * i + 3]!;
        if (log && value <= 0) continue;
        g.beginPath();
        g.arc(box.left + raw.at[i]!, yAt(value), 2.25, 0, 7);
        g.fill();
      }
  }
  if (level) {
    const y = yAt(level.at);
    g.textAlign = "right";
    g.lineWidth = 4;
    g.strokeStyle = inks.ground;
    g.fillStyle = inks.faint;
    const at = y > 24 ? y - 6 : y + 15;
    g.strokeText(level.label, box.right - 4, at);
    g.fillText(level.label, box.right - 4, at);
  }
  g.restore();
  return { xAt, valueAt: (x) => from + ((x - box.left) / (box.right - box.left || 1)) * (to - from) };
}

function line(g: CanvasRenderingContext2D, x1: number, y1: number, x2: number, y2: number): void {
  g.beginPath();
  g.moveTo(x1, y1);
  g.lineTo(x2, y2);
  g.stroke();
}

function path(
  g: CanvasRenderingContext2D,
  { at, parts }: Pixels,
  left: number,
  yAt: (v: number) => number,
  log: boolean,
): void {
  g.beginPath();
  let begun = false;
  for (let i = 0; i < at.length; i++) {
    const x = left + at[i]!;
    const [first, low, high, last] = [parts[4 * i]!, parts[4 * i + 1]!, parts[4 * i + 2]!, parts[4 * i + 3]!];
    if (log && high <= 0) continue;
    if (begun) g.lineTo(x, yAt(first));
    else g.moveTo(x, yAt(first));
    begun = true;
    if (low === high) continue;
    g.lineTo(x, yAt(low));
    g.lineTo(x, yAt(high));
    g.lineTo(x, yAt(last));
  }
  g.stroke();
}

/** Of the values that are seen, with a little air. */
function range({ strokes, log, share, level }: Scene): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  const see = (value: number) => {
    if (log && value <= 0) return;
    if (value < low) low = value;
    if (value > high) high = value;
  };
  for (const { raw } of strokes)
    for (let i = 0; i < raw.parts.length; i += 4) {
      see(raw.parts[i + 1]!);
      see(raw.parts[i + 2]!);
    }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (share && !log) return [Math.min(0, low), Math.max(1, high)];
  if (level) {
    // A level far above or below would leave the lines no room.
    const near = log ? level.at < high * 30 && level.at > low / 30 : level.at < high + 2 * (high - low || 1);
    if (near) see(level.at);
  }
  if (log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.03, high * (high / low) ** 0.03];
  const air = (high - low) * 0.05 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low - air < 0 ? 0 : low - air, high + air];
}
