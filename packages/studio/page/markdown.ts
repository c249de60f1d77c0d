/** The part of Markdown that models write, as a tree. Nothing in it can become HTML or load anything: links stay text with
 *  their address beside them. Every expression takes linear time, since a model's text is nobody's friend. */

export type Span =
  | { kind: "text" | "code"; text: string }
  | { kind: "strong" | "emphasis"; spans: Span[] }
  | { kind: "link"; text: string; url: string };

export type Block =
  | { kind: "paragraph"; spans: Span[] }
  | { kind: "heading"; level: number; spans: Span[] }
  | { kind: "code"; language: string; text: string }
  | { kind: "quote"; blocks: Block[] }
  | { kind: "list"; ordered: boolean; start: number; items: Block[][] }
  | { kind: "table"; head: Span[][]; rows: Span[][][] }
  | { kind: "rule" };

const span = /(`+)([^`\n]+)\1|\*\*([^*\n]+)\*\*|\*([^*\s][^*\n]*)\*|\[([^[\]\n]+)\]\(([^()\s]+)\)/g;

export function parseSpans(text: string): Span[] {
  const spans: Span[] = [];
  let from = 0;
  const plain = (to: number) => {
    if (to > from) spans.push({ kind: "text", text: text.slice(from, to) });
  };
  for (const match of text.matchAll(span)) {
    const [whole, , code, strong, emphasis, label, url] = match;
    plain(match.index);
    from = match.index + whole.length;
    if (code !== undefined) spans.push({ kind: "code", text: code.length > 2 ? code.replace(/^ (.*) $/, "$1") : code });
    else if (strong !== undefined) spans.push({ kind: "strong", spans: parseSpans(strong) });
    else if (emphasis !== undefined) spans.push({ kind: "emphasis", spans: parseSpans(emphasis) });
    else spans.push({ kind: "link", text: label!, url: url! });
  }
  plain(text.length);
  return spans;
}

const fence = /^ {0,3}(```+|~~~+)([^`]*)$/;
const heading = /^ {0,3}(#{1,6}) +(.+)$/;
const rule = /^ {0,3}([-*_])( *\1){2,} *$/;
const quote = /^ {0,3}> ?(.*)$/;
const item = /^( ?)([-*+]|\d{1,9}[.)]) +(.*)$/;
const row = /^ {0,3}\|.*\| *$/;
const tableRule = /^ {0,3}\|[-:| ]+\| *$/;
/** Quotes and lists within each other: deeper ones stay text. */
const DEEPEST = 8;

export function parseMarkdown(text: string, depth = 0): Block[] {
  const lines = text.split("\n");
  const blocks: Block[] = [];
  let paragraph: string[] = [];
  const flush = () => {
    if (paragraph.length) blocks.push({ kind: "paragraph", spans: parseSpans(paragraph.join("\n")) });
    paragraph = [];
  };
  const push = (block: Block) => {
    flush();
    blocks.push(block);
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]!;
    let match: RegExpExecArray | null;
    if (!line.trim()) flush();
    else if ((match = fence.exec(line))) {
      const [, mark, language] = match;
      const body: string[] = [];
      // Until its end, or as far as the text has come.
      while (++i < lines.length && !(lines[i]!.trim().startsWith(mark!) && /^ *(`+|~+) *$/.test(lines[i]!)))
        body.push(lines[i]!);
      push({ kind: "code", language: language!.trim(), text: body.join("\n") });
    } else if ((match = heading.exec(line)))
      push({ kind: "heading", level: match[1]!.length, spans: parseSpans(match[2]!) });
    else if (rule.test(line)) push({ kind: "rule" });
    else if (depth < DEEPEST && quote.test(line)) {
      const inner: string[] = [];
      for (; i < lines.length && (match = quote.exec(lines[i]!)); i++) inner.push(match[1]!);
      i--;
      push({ kind: "quote", blocks: parseMarkdown(inner.join("\n"), depth + 1) });
    } else if (depth < DEEPEST && (match = item.exec(line))) {
      const ordered = /\d/.test(match[2]!);
      const items: string[][] = [];
      let indent = 0;
      for (; i < lines.length; i++) {
        const own = lines[i]!;
        const next = item.exec(own);
        const depthOf = own.search(/\S/);
        if (next && /\d/.test(next[2]!) === ordered) {
          items.push([next[3]!]);
          indent = 0;
        } else if (depthOf >= 2) {
          indent ||= Math.min(depthOf, 4);
          items.at(-1)!.push(own.slice(Math.min(depthOf, indent)));
        } else if (depthOf < 0 && (item.test(lines[i + 1] ?? "") || /^ {2,}\S/.test(lines[i + 1] ?? "")))
          items.at(-1)!.push("");
        else break;
      }
      i--;
      const start = ordered ? Number.parseInt(match[2]!, 10) : 1;
      push({ kind: "list", ordered, start, items: items.map((own) => parseMarkdown(own.join("\n"), depth + 1)) });
    } else if (row.test(line) && tableRule.test(lines[i + 1] ?? "")) {
      const rows: Span[][][] = [];
      for (i += 2; i < lines.length && row.test(lines[i]!); i++) rows.push(cells(lines[i]!));
      i--;
      push({ kind: "table", head: cells(line), rows });
    } else paragraph.push(line);
  }
  flush();
  return blocks;
}

const cells = (line: string): Span[][] =>
  line
    .trim()
    .slice(1, -1)
    .split("|")
    .map((cell) => parseSpans(cell.trim()));
