/** What the enforcer's tests share: small vocabularies, walks through masks, and the files of `../shared`. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Random, readBytes } from "../common/index.ts";
import type { Matcher } from "./grammar.ts";
import type { Vocabulary } from "./trie.ts";

export const shared = resolve(import.meta.dirname, "../../../../../shared");
export const schemasAt = join(shared, "data/schemas");
export const hasShared = existsSync(schemasAt);

export const CONTROLS = [
  "<|im_end|>",
  "<|tool_calls_section_begin|>",
  "<|tool_calls_section_end|>",
  "<|tool_call_begin|>",
  "<|tool_call_argument_begin|>",
  "<|tool_call_end|>",
  "</think>",
];

/** All bytes, then words that cut JSON and UTF-8 in awkward places, then control tokens with text for bytes. */
export function smallVocabulary(): Vocabulary {
  const words = [
    ...[
      '{"',
      '":',
      '","',
      '"}',
      '"]',
      "}}",
      "[[",
      "]]",
      "],",
      "[{",
      "},",
      ':"',
      ": ",
      ', "',
      '\\"',
      "\\u",
      "\\n",
      "\\ud8",
      "3d\\u",
    ],
    ...[
      "true",
      "fal",
      "se",
      "null",
      "name",
      '"name":"',
      "nam",
      "e",
      "10",
      "00",
      "-1",
      "0.",
      "e+",
      "99",
      "aaa",
      "aaaaaaaa",
      "        ",
    ],
    ...[
      "é",
      "世界",
      "😊",
      '😊"',
      'a"',
      'a","',
      '"a":',
      'x":{"y"',
      "functions.",
      "functions.get",
      ":0",
      "a}",
      "{}",
      "[]",
      '""',
    ],
  ].map((word) => new TextEncoder().encode(word));
  // The halves of characters, alone and behind text.
  words.push(
    Uint8Array.of(0xf0, 0x9f),
    Uint8Array.of(0x98, 0x8a),
    Uint8Array.of(0x61, 0xe4),
    Uint8Array.of(0xb8, 0x96, 0x22),
  );
  const tokens = [...Array.from({ length: 256 }, (_, b) => Uint8Array.of(b)), ...words];
  const special = new Map(CONTROLS.map((name, i) => [name, tokens.length + i]));
  return {
    vocabSize: tokens.length + CONTROLS.length,
    tokenBytes: (id) => tokens[id] ?? new TextEncoder().encode(CONTROLS[id - tokens.length]),
    special,
  };
}

/** The tokens whose bit is set. */
export function allowed(mask: Uint32Array): number[] {
  const ids: number[] = [];
  mask.forEach((word, w) => {
    for (let rest = word; rest; rest &= rest - 1) ids.push(w * 32 + 31 - Math.clz32(rest & -rest));
  });
  return ids;
}

/** Follows uniformly drawn allowed tokens to the end; throws where nothing is allowed. */
export function walk(matcher: Matcher, random: Random, most = Infinity): number[] {
  const ids: number[] = [];
  while (!matcher.finished && ids.length < most) {
    const choices = allowed(matcher.mask());
    if (!choices.length) throw new Error(`nothing is allowed after ${ids.length} tokens`);
    const id = random.pick(choices);
    matcher.accept(id);
    ids.push(id);
  }
  return ids;
}

export function textOf(vocabulary: Vocabulary, ids: readonly number[]): string {
  const control = new Set(vocabulary.special?.values());
  const parts = ids.filter((id) => !control.has(id)).map((id) => vocabulary.tokenBytes(id) ?? new Uint8Array());
  return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts));
}

/** Takes `text` byte by byte (ids 0–255 are the bytes); whether all of it was allowed and may end there. */
export function takes(matcher: Matcher, text: string): boolean {
  for (const byte of new TextEncoder().encode(text)) {
    try {
      matcher.accept(byte);
    } catch {
      return false;
    }
  }
  return matcher.canEnd;
}

/** The files of a `.tar.xz` in `../shared/data/schemas`, by path. */
export async function readTar(name: string): Promise<Map<string, string>> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of readBytes(join(schemasAt, name))) chunks.push(chunk);
  const tar = Buffer.concat(chunks);
  const files = new Map<string, string>();
  const field = (at: number, length: number) => tar.toString("utf8", at, at + length).replace(/\0.*$/s, "");
  for (let at = 0; at + 512 <= tar.length && tar[at]; ) {
    const size = Number.parseInt(field(at + 124, 12), 8) || 0;
    const prefix = field(at + 345, 155);
    const path = (prefix ? `${prefix}/` : "") + field(at, 100);
    if (tar[at + 156] === 0x30 || tar[at + 156] === 0) files.set(path, tar.toString("utf8", at + 512, at + 512 + size));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}

/** walle's cases: schema texts that it accepts, and those it refuses with a fragment of its reason. */
export async function walleCases(): Promise<{ valid: string[]; invalid: { schema: string; expect: string }[] }> {
  const valid: string[] = [];
  const invalid: { schema: string; expect: string }[] = [];
  for (const [path, text] of await readTar("moonshot_walle_cases.tar.xz")) {
    const lines = text.split("\n").filter((line) => line.trim());
    if (path.endsWith("/valid.jsonl")) valid.push(...lines);
    if (path.endsWith("/invalid.jsonl")) invalid.push(...lines.map((line) => JSON.parse(line)));
  }
  return { valid, invalid };
}
