/** Moonshot's `$web_search`: the client declares it, the model calls it, the client sends the call's arguments back as they
 *  are, and the server searches before it asks the model again. Only where the operator named a search endpoint. */
import { z } from "zod";
import { MassifError } from "../../common/index.ts";
import { ApiError, invalid } from "../errors.ts";

export interface SearchResult {
  title: string;
  url: string;
  content: string;
}
export type Search = (query: string, signal: AbortSignal) => Promise<SearchResult[]>;

const WEB_SEARCH = "$web_search";
const MOST = { results: 8, characters: 2000, bytes: 2 << 20, remembered: 256 };
const PATIENCE = 15_000;

export const searchTool = {
  name: "web_search",
  description: "Searches the web. Returns titles, addresses and extracts of pages.",
  parameters: {
    type: "object",
    properties: { query: { type: "string", description: "What to search for." } },
    required: ["query"],
  },
};

const Answer = z.object({
  results: z.array(
    z.object({
      title: z.string().catch(""),
      url: z.string().catch(""),
      content: z.string().nullish().catch(""),
    }),
  ),
});

/** A search over HTTP: `{query}` of the address is what is searched for; the answer is JSON, `{results: [{title, url,
 *  content}]}` (SearXNG's). The same query has the same results while the process remembers it, so that a conversation
 *  that is sent again is the same prompt again. Throws `server.search` for another address. */
export function searchEndpoint(template: string): Search {
  if (!/^https?:\/\//.test(template) || !template.includes("{query}"))
    throw new MassifError("server.search", {
      found: template,
      expected: "an address with {query}, as https://search.example/search?format=json&q={query}",
    });
  const known = new Map<string, SearchResult[]>();
  return async (query, signal) => {
    const before = known.get(query);
    if (before) return before;
    const response = await fetch(template.replaceAll("{query}", encodeURIComponent(query)), {
      signal: AbortSignal.any([signal, AbortSignal.timeout(PATIENCE)]),
      headers: { accept: "application/json" },
    });
    const pieces: Uint8Array[] = [];
    let size = 0;
    for await (const piece of response.body ?? []) {
      size += piece.length;
      if (size > MOST.bytes) throw new Error(`more than ${MOST.bytes} bytes`);
      pieces.push(piece);
    }
    if (!response.ok) throw new Error(`status ${response.status}`);
    const { results } = Answer.parse(JSON.parse(Buffer.concat(pieces).toString()));
    const found = results.slice(0, MOST.results).map(({ title, url, content }) => ({
      ...{ title: title.slice(0, 300), url: url.slice(0, 2000), content: (content ?? "").slice(0, MOST.characters) },
    }));
    known.set(query, found);
    if (known.size > MOST.remembered) known.delete(known.keys().next().value!);
    return found;
  };
}

interface Loose {
  role?: unknown;
  name?: unknown;
  content?: unknown;
  tool_call_id?: unknown;
  tool_calls?: unknown;
}

/** A body with the builtin function declared as a tool, and searches done where its results are wanted. Throws 400 that
 *  names the tool, or the message. */
export async function withSearch(
  fields: Record<string, unknown>,
  search: Search | undefined,
  signal: AbortSignal,
): Promise<Record<string, unknown>> {
  if (!Array.isArray(fields.tools)) return fields;
  let offered = false;
  const tools = fields.tools.map((tool: { type?: unknown; function?: { name?: unknown } } | null, i) => {
    const name = tool?.function?.name;
    if (tool?.type !== "builtin_function") {
      if (name === WEB_SEARCH)
        throw invalid(`tools[${i}].type`, `${WEB_SEARCH} is the server's own: type "builtin_function"`);
      return tool;
    }
    if (name !== WEB_SEARCH) throw invalid(`tools[${i}].function.name`, `the only builtin function is ${WEB_SEARCH}`);
    if (!search)
      throw new ApiError(
        400,
        `tools[${i}].type: this server searches nothing; its operator may start it with --search URL`,
        {
          ...{ param: `tools[${i}].type`, code: "unsupported_parameter" },
        },
      );
    offered = true;
    return { type: "function", function: { ...searchTool, name: WEB_SEARCH } };
  });
  if (!offered) return fields;
  const thinking = fields.thinking as { type?: unknown } | null | undefined;
  if (thinking?.type === "enabled") throw invalid("thinking.type", `${WEB_SEARCH} needs thinking disabled`);
  const given = (Array.isArray(fields.messages) ? fields.messages : []) as (Loose | null)[];
  const calls = new Set(
    given.flatMap((message) => {
      const all = Array.isArray(message?.tool_calls) ? (message.tool_calls as Record<string, unknown>[]) : [];
      return all.flatMap((call) => ((call?.function as Loose | undefined)?.name === WEB_SEARCH ? [call.id] : []));
    }),
  );
  const messages: unknown[] = [];
  for (const [i, message] of given.entries()) {
    const ours = message?.role === "tool" && (message.name === WEB_SEARCH || calls.has(message.tool_call_id));
    messages.push(ours ? { ...message, content: await results(message!.content, i, search!, signal) } : message);
  }
  return { ...fields, tools, messages };
}

async function results(content: unknown, at: number, search: Search, signal: AbortSignal): Promise<string> {
  let query: unknown;
  try {
    ({ query } = JSON.parse(String(content)) as { query?: unknown });
  } catch {
    // Said below.
  }
  if (typeof query !== "string" || !query || query.length > 2000)
    throw invalid(`messages[${at}].content`, `the arguments of the call to ${WEB_SEARCH}, as they came`);
  try {
    return JSON.stringify({ query, results: await search(query, signal) });
  } catch {
    // The model can go on without; which endpoint failed and how is nobody's business outside.
    return JSON.stringify({ query, error: "the search failed" });
  }
}
