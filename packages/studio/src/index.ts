/** The studio, as a web server hands it out: the page's TypeScript with its types blanked, and everything else as it
 *  lies. There is no build: what is in `page/` is what runs, and nothing is ever asked of another host. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export interface StudioFile {
  headers: Record<string, string>;
  body: string;
}

const page = resolve(import.meta.dirname, "../page");

/** Bare names that the page imports, and where they are served. */
const modules = { preact: "/studio/preact.js", "preact/hooks": "/studio/preact-hooks.js" };

const types: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".svg": "image/svg+xml",
};

const importMap = JSON.stringify({ imports: modules });

/** Scripts are ours alone, and talk to this server alone: what a model writes can neither run nor phone home. */
const policy = [
  ...["default-src 'none'", "connect-src 'self'", "style-src 'self'", "img-src 'self'", "base-uri 'none'"],
  `script-src 'self' 'sha256-${createHash("sha256").update(importMap).digest("base64")}'`,
  ...["form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"],
].join("; ");

let files: Map<string, StudioFile> | undefined;

/** The file at a path of the server (`/` is the page); undefined where the studio has none. Reads them all on first use. */
export function studioFile(pathname: string): StudioFile | undefined {
  files ??= readFiles();
  return files.get(pathname);
}

/** Node says once that its stripper may change; whoever starts a server need not read that. */
function strip(text: string): string {
  const warn = process.emitWarning;
  process.emitWarning = () => undefined;
  try {
    return stripTypeScriptTypes(text);
  } finally {
    process.emitWarning = warn;
  }
}

function readFiles(): Map<string, StudioFile> {
  const all = new Map<string, StudioFile>();
  const add = (path: string, type: string, body: string) =>
    all.set(path, {
      body,
      headers: {
        "content-type": types[type]!,
        "cache-control": "no-cache",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
      },
    });
  for (const name of readdirSync(page)) {
    const type = extname(name);
    const text = type in types || type === ".ts" ? readFileSync(join(page, name), "utf8") : "";
    if (type === ".html")
      add(
        name === "index.html" ? "/" : `/${name.slice(0, -".html".length)}`,
        type,
        text.replace("IMPORT_MAP", () => importMap),
      );
    // Under its own name, so that a module's imports are right as they stand; browsers go by the content type.
    else if (type === ".ts") add(`/studio/${name}`, ".js", strip(text));
    else if (type in types) add(`/studio/${name}`, type, text);
  }
  for (const [name, path] of Object.entries(modules))
    add(
      path,
      ".js",
      readFileSync(fileURLToPath(import.meta.resolve(name)), "utf8").replace(/\n\/\/# sourceMapping.*/, ""),
    );
  return all;
}
