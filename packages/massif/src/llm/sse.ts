/** Server-sent events, bytes to events (WHATWG HTML §9.2.6): the same events for every way of cutting the bytes. */
import { LlmError } from "./errors.ts";

export interface SseEvent {
  /** "" where the stream names none, which means `message`. */
  event: string;
  data: string;
}

/** Code units that one event may have: an upstream that never ends a line must not fill the memory. */
const LONGEST = 1 << 26;

export class SseDecoder {
  // Strips a byte order mark, as the standard asks.
  readonly #utf8 = new TextDecoder();
  /** The pieces of a line that has not ended, joined once: a long line in many pieces takes linear time. */
  #line: string[] = [];
  /** Code units of that line, and of the data so far. */
  #pending = 0;
  #held = 0;
  /** The last piece ended with CR: a line feed at once after it belongs to the same line end. */
  #afterCr = false;
  #event = "";
  #data: string[] = [];

  /** The events that these bytes complete. Throws `llm.protocol` for an event of more than 64 Mi code units. */
  push(bytes: Uint8Array): SseEvent[] {
    return this.#take(this.#utf8.decode(bytes, { stream: true }));
  }

  /** The event that the end of the stream completes: the standard drops it, but servers forget the last blank line. */
  end(): SseEvent[] {
    return this.#take(`${this.#utf8.decode()}\n\n`);
  }

  #take(text: string): SseEvent[] {
    const events: SseEvent[] = [];
    if (!text) return events;
    let from = this.#afterCr && text.startsWith("\n") ? 1 : 0;
    for (const { index, 0: ending } of text.matchAll(/\r\n|\n|\r/g)) {
      if (index < from) continue;
      this.#line.push(text.slice(from, index));
      from = index + ending.length;
      const line = this.#line.length === 1 ? this.#line[0]! : this.#line.join("");
      this.#line = [];
      this.#pending = 0;
      if (line) this.#field(line);
      else {
        if (this.#data.length) events.push({ event: this.#event, data: this.#data.join("\n") });
        this.#event = "";
        this.#data = [];
        this.#held = 0;
      }
    }
    this.#afterCr = text.endsWith("\r");
    if (from < text.length) this.#line.push(text.slice(from));
    this.#pending += text.length - from;
    if (this.#held + this.#pending > LONGEST) {
      throw new LlmError("llm.protocol", { found: `an event of more than ${LONGEST} characters in the stream` });
    }
    return events;
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") {
      this.#data.push(value);
      this.#held += value.length + 1;
    }
    if (name === "event") this.#event = value;
  }
}
