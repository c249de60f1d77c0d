/** The text of an uploaded file (Moonshot's `file-extract`): formats that are text. */
import { extname } from "node:path";
import { ApiError, invalid } from "../errors.ts";

/** Bytes at the beginning of formats that people upload for their text, and that this server cannot read. */
const binary: readonly (readonly [magic: string, name: string])[] = [
  ["%PDF", "PDF"],
  ["PK\x03\x04", "a ZIP archive (docx, xlsx, pptx, epub)"],
  ["\xd0\xcf\x11\xe0", "an old Office document"],
  ["\x89PNG", "an image"],
  ["\xff\xd8\xff", "an image"],
  ["GIF8", "an image"],
];

/** Bytes that text is extracted from at once. */
const MOST = 16 << 20;

/** Throws 400 for what is not text, 413 for more than can be read at once. */
export function extractText(bytes: Uint8Array, filename: string): string {
  if (bytes.length > MOST)
    throw new ApiError(413, `file: text is extracted from at most ${MOST} bytes`, { param: "file" });
  const refuse = (what: string) =>
    invalid("file", `${what}: this server extracts text from text, Markdown, CSV, JSON, code and HTML, in UTF-8`);
  const head = Buffer.from(bytes.subarray(0, 8)).toString("latin1");
  const known = binary.find(([magic]) => head.startsWith(magic));
  if (known) throw refuse(`${filename.slice(0, 100)} is ${known[1]}`);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw refuse(`${filename.slice(0, 100)} is not UTF-8`);
  }
  if (text.includes("\0")) throw refuse(`${filename.slice(0, 100)} holds zero bytes`);
  if (!text.trim()) throw refuse(`${filename.slice(0, 100)} is empty`);
  const html = /^\.x?html?$/i.test(extname(filename)) || /^\s*<(!doctype html|html)\b/i.test(text.slice(0, 1000));
  return html ? htmlText(text) : text;
}

/** Elements whose content is nothing to read, and those that end a line. */
const unseen = new Set(["script", "style", "template", "noscript", "svg", "iframe"]);
const lines = new Set(
  "address article aside blockquote br dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section table title tr ul".split(
    " ",
  ),
);

/** What a reader sees of a page. One pass: each character is looked at a bounded number of times, whatever the page is. */
function htmlText(html: string): string {
  const pieces: string[] = [];
  const tag = /<\/?([a-zA-Z][\w:-]{0,40})/y;
  let at = 0;
  while (at < html.length) {
    const open = html.indexOf("<", at);
    pieces.push(decodeEntities(html.slice(at, open < 0 ? undefined : open).replace(/[ \t\r\n\f]+/g, " ")));
    if (open < 0) break;
    if (html.startsWith("<!--", open)) {
      at = after(html, "-->", open + 4);
      continue;
    }
    tag.lastIndex = open;
    const name = tag.exec(html)?.[1]?.toLowerCase();
    if (!name && !/[!?]/.test(html[open + 1] ?? "")) {
      pieces.push("<");
      at = open + 1;
      continue;
    }
    at = after(html, ">", open);
    if (!name) continue;
    if (lines.has(name)) pieces.push("\n");
    else if (name === "td" || name === "th") pieces.push("\t");
    else if (unseen.has(name) && html[open + 1] !== "/") {
      const close = new RegExp(`</${name}\\b`, "gi");
      close.lastIndex = at;
      const end = close.exec(html);
      at = end ? after(html, ">", end.index) : html.length;
    }
  }
  const text = pieces.join("").replace(/[ \t]*\n[ \t]*/g, "\n");
  return text.replace(/\n{3,}/g, "\n\n").trim();
}

const after = (text: string, mark: string, from: number): number => {
  const at = text.indexOf(mark, from);
  return at < 0 ? text.length : at + mark.length;
};

const entities: Record<string, string> = {
  ...{ amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: " ", copy: "©", reg: "®", hellip: "…", mdash: "—" },
  ...{ ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", euro: "€", times: "×" },
  ...{ auml: "ä", ouml: "ö", uuml: "ü", Auml: "Ä", Ouml: "Ö", Uuml: "Ü", szlig: "ß", eacute: "é", middot: "·" },
};

const decodeEntities = (text: string): string =>
  text.replace(/&(#x[0-9a-f]{1,6}|#[0-9]{1,7}|[a-z]{2,8});/gi, (whole, name: string) => {
    if (name[0] !== "#") return entities[name] ?? whole;
    const code = /x/i.test(name[1]!) ? parseInt(name.slice(2), 16) : Number(name.slice(1));
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
