/** Numbers and text as the reports show them. */
import { count } from "../../common/index.ts";
import type { Cell } from "./report.ts";

/** Four digits that matter: `2.314`, `12.3k`, `0.0002`, `3.1e-7`. */
export function figure(n: number): string {
  if (!Number.isFinite(n)) return String(n);
  if (Math.abs(n) >= 10_000) return count(n);
  if (n !== 0 && Math.abs(n) < 1e-4) return n.toExponential(1);
  return String(Number(n.toPrecision(4)));
}

export function cellText(cell: Cell): string {
  if (typeof cell === "string") return cell;
  if (typeof cell === "number") return figure(cell);
  return `${figure(cell.value)} (${figure(cell.low)} – ${figure(cell.high)})`;
}

const ENTITIES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** Safe as HTML text and inside a quoted attribute; control characters, which HTML forbids, become U+FFFD. */
export function escapeHtml(text: string): string {
  return text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g, "\ufffd").replace(/[&<>"']/g, (c) => ENTITIES[c]!);
}
