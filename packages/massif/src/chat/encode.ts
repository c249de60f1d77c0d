/** Segments to token ids, and whose each token is. */
import { MassifError } from "../common/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { controls, spellable } from "./markers.ts";
import type { Segment, TokenSource } from "./render.ts";

/** What the chat format needs of a tokenizer. */
export type ChatTokenizer = Pick<Tokenizer, "encode" | "tokenBytes" | "special">;

export interface Encoded {
  ids: number[];
  /** For each token, who it comes from. */
  sources: TokenSource[];
  /** For each token, the index of its message (see `Segment`). */
  messages: number[];
}

/** Token ids of segments. Text that is not parted by a control token is encoded as one. Throws `chat.special` where the
 *  tokenizer lacks a control token. */
export function encodeSegments(segments: readonly Segment[], tokenizer: ChatTokenizer): Encoded {
  const encoded: Encoded = { ids: [], sources: [], messages: [] };
  const add = (ids: ArrayLike<number>, { source, message }: Segment) => {
    for (let i = 0; i < ids.length; i++) {
      encoded.ids.push(ids[i]!);
      encoded.sources.push(source);
      encoded.messages.push(message);
    }
  };
  let run: { segment: Segment; text: string } | undefined;
  const flush = () => {
    if (run) add(tokenizer.encode(run.text, { allowSpecial: false }), run.segment);
    run = undefined;
  };
  for (const segment of segments) {
    const id = segment.control && tokenizer.special.get(controls[segment.control]);
    if (id !== undefined) {
      flush();
      add([id], segment);
      continue;
    }
    if (segment.control && !spellable.includes(segment.control)) throw missing(controls[segment.control]);
    if (run && run.segment.source !== segment.source) flush();
    run ??= { segment, text: "" };
    run.text += segment.control ? controls[segment.control] : segment.text;
  }
  flush();
  return encoded;
}

function missing(name: string): MassifError {
  return new MassifError("chat.special", {
    found: `the tokenizer has no special token ${name}`,
    expected: `the K2 chat format needs ${Object.values(controls).join(" ")}`,
    fix: "train the tokenizer with these special tokens, or load its tokenizer_config.json beside it",
  });
}
