/** Markers and text from whatever an engine gives: token ids, or text that spells the markers. */
import { MassifError } from "../common/index.ts";
import type { ChatTokenizer } from "./encode.ts";
import { controls, type Marker, meaningOf, spellable, spelled } from "./markers.ts";

export type Piece = { text: string; marker?: undefined } | { marker: Marker; name: string; text?: undefined };

/** Cuts text at spelled markers, however the text comes cut. */
class TextScanner {
  readonly #names: readonly string[];
  readonly #pattern: RegExp;
  #held = "";

  constructor(names: readonly string[]) {
    this.#names = names;
    this.#pattern = new RegExp(names.map((name) => RegExp.escape(name)).join("|"));
  }

  *push(text: string): Generator<Piece> {
    let rest = this.#held + text;
    for (let found = this.#pattern.exec(rest); found; found = this.#pattern.exec(rest)) {
      yield* wellFormed(rest.slice(0, found.index));
      yield { marker: meaningOf(found[0]), name: found[0] };
      rest = rest.slice(found.index + found[0].length);
    }
    const keep = partialMarker(rest, this.#names) || /[\ud800-\udbff]?$/.exec(rest)![0];
    this.#held = keep;
    yield* wellFormed(rest.slice(0, rest.length - keep.length));
  }

  *end(): Generator<Piece> {
    yield* wellFormed(this.#held);
    this.#held = "";
  }
}

const longest = Math.max(...spelled.map((name) => name.length));

/** The longest end of `text` that a marker of `names` may begin with; "" if none. */
export function partialMarker(text: string, names: readonly string[] = spelled): string {
  for (let i = Math.max(0, text.length - longest + 1); i < text.length; i++) {
    if (text[i] !== "<" && text[i] !== "[") continue;
    const end = text.slice(i);
    if (names.some((name) => name.startsWith(end))) return end;
  }
  return "";
}

function* wellFormed(text: string): Generator<Piece> {
  if (text) yield { text: text.toWellFormed() };
}

/**
 * With a tokenizer, ids go in: a marker is its own token and nothing else, so text that merely spells one stays text
 * (think tags excepted where the tokenizer lacks them). Without, text goes in, and every spelling of a control token is
 * that token. `think: false` leaves spelled think tags alone: K2-Instruct has no such tokens.
 */
export class Scanner {
  readonly #tokenizer: ChatTokenizer | undefined;
  readonly #special = new Map<number, string>();
  readonly #text: TextScanner | undefined;
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  readonly names: readonly string[];

  constructor(tokenizer: ChatTokenizer | undefined, think: boolean) {
    this.#tokenizer = tokenizer;
    for (const [name, id] of tokenizer?.special ?? []) this.#special.set(id, name);
    const tags: string[] = spellable.map((control) => controls[control]);
    const lacking = tags.filter((tag) => think && !tokenizer?.special.has(tag));
    this.names = tokenizer ? lacking : spelled.filter((name) => think || !tags.includes(name));
    if (this.names.length) this.#text = new TextScanner(this.names);
  }

  /** Throws `chat.stream` for text where ids were announced, or the other way round. */
  *push(input: string | Iterable<number>): Generator<Piece> {
    const tokenizer = this.#tokenizer;
    if ((typeof input === "string") !== (tokenizer === undefined)) {
      throw new MassifError("chat.stream", {
        found: typeof input === "string" ? "text in a stream of token ids" : "token ids, and no tokenizer to read them",
        expected: "ids with a tokenizer, or text without",
      });
    }
    if (typeof input === "string") return yield* this.#push(input);
    for (const id of input) {
      const name = this.#special.get(id);
      if (name === undefined) {
        yield* this.#push(this.#utf8.decode(tokenizer!.tokenBytes(id), { stream: true }));
        continue;
      }
      yield* this.end();
      yield { marker: meaningOf(name), name };
    }
  }

  /** What is held back: half a character (as U+FFFD), half a marker that stayed half. */
  *end(): Generator<Piece> {
    yield* this.#push(this.#utf8.decode());
    if (this.#text) yield* this.#text.end();
  }

  *#push(text: string): Generator<Piece> {
    if (!text) return;
    if (this.#text) yield* this.#text.push(text);
    else yield { text };
  }
}
