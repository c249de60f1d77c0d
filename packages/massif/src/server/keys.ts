/** API keys and what each may use. Keys are kept as SHA-256, so that no dump of the process tells them. */
import { createHash, timingSafeEqual } from "node:crypto";
import { z } from "zod";
import { MassifError } from "../common/index.ts";
import { ApiError } from "./errors.ts";

const limit = z.int().positive().optional();
const KeyFile = z.array(
  z.strictObject({
    key: z.string().min(8),
    name: z.string().min(1).describe("What logs and metrics call it."),
    admin: z.boolean().default(false).describe("May pause, and update weights."),
    concurrency: limit.describe("Requests at once."),
    rpm: limit.describe("Requests a minute."),
    tpm: limit.describe("Tokens a minute, prompt and answer; a request is let in while any are left."),
    tokens: limit.describe("Tokens in all, while the server lives."),
  }),
);
export type KeyOptions = z.input<typeof KeyFile>[number];

export class Key {
  readonly name: string;
  readonly admin: boolean;
  readonly hash: Buffer;
  /** Tells whose a stored thing is: no key can be had from it, and it stays when names change. */
  readonly id: string;
  readonly limits: Pick<KeyOptions, "concurrency" | "rpm" | "tpm" | "tokens">;
  running = 0;
  spent = 0;
  #minute = -1;
  #requests = 0;
  #tokens = 0;

  constructor({ key, name, admin = false, ...limits }: KeyOptions) {
    this.hash = sha256(key);
    this.id = this.hash.toString("hex").slice(0, 32);
    this.name = name;
    this.admin = admin;
    this.limits = limits;
  }

  /** Lets a request in; what it returns lets it out. Throws 429 with the time until the limit is over. `now` in ms. */
  enter(now: number): () => void {
    const { concurrency, rpm, tpm, tokens } = this.limits;
    this.#turn(now);
    const wait = 60_000 - (now % 60_000);
    const refuse = (what: string, retryAfter?: number) => {
      const code = retryAfter ? "rate_limit_exceeded" : "insufficient_quota";
      return new ApiError(429, `this key may use ${what}`, { code, ...(retryAfter && { retryAfter }) });
    };
    if (tokens !== undefined && this.spent >= tokens) throw refuse(`${tokens} tokens, and has`);
    if (concurrency !== undefined && this.running >= concurrency) throw refuse(`${concurrency} requests at once`, 1000);
    if (rpm !== undefined && this.#requests >= rpm) throw refuse(`${rpm} requests a minute`, wait);
    if (tpm !== undefined && this.#tokens >= tpm) throw refuse(`${tpm} tokens a minute`, wait);
    this.#requests++;
    this.running++;
    return () => void this.running--;
  }

  spend(tokens: number, now: number): void {
    this.#turn(now);
    this.#tokens += tokens;
    this.spent += tokens;
  }

  #turn(now: number): void {
    const minute = Math.floor(now / 60_000);
    if (minute === this.#minute) return;
    this.#minute = minute;
    this.#requests = this.#tokens = 0;
  }
}

const sha256 = (text: string): Buffer => createHash("sha256").update(text).digest();

export class Keys {
  readonly #keys: readonly Key[];

  constructor(keys: readonly KeyOptions[] = []) {
    this.#keys = keys.map((options) => new Key(options));
  }

  /** From the text of a file: JSON as `KeyFile` has it, or one key a line. Throws `server.keys`. */
  static read(text: string): Keys {
    const lines = text.split("\n").map((line) => line.trim());
    const plain = lines.filter((line) => line && !line.startsWith("#"));
    if (!text.trimStart().startsWith("["))
      return new Keys(plain.map((key, i) => ({ key, name: `key-${i + 1}`, admin: true })));
    const read = KeyFile.safeParse(JSON.parse(text));
    if (read.success) return new Keys(read.data);
    const [issue] = read.error.issues;
    throw new MassifError("server.keys", {
      found: `keys[${issue?.path.join(".")}]: ${issue?.message}`,
      expected: '[{"key": "…", "name": "…", "admin"?, "concurrency"?, "rpm"?, "tpm"?, "tokens"?}] or one key a line',
    });
  }

  get size(): number {
    return this.#keys.length;
  }

  /** The key with this id, of a stored thing's owner. */
  byId(id: string): Key | undefined {
    return this.#keys.find((key) => key.id === id);
  }

  /** Whose request it is: undefined where no keys are set. `Authorization: Bearer` and `x-api-key` are one. Throws 401. */
  of(headers: Headers): Key | undefined {
    if (!this.size) return undefined;
    const bearer = /^Bearer\s+(.+)$/i.exec(headers.get("authorization") ?? "")?.[1];
    const given = bearer ?? headers.get("x-api-key");
    if (!given) {
      const missing = "no API key: send Authorization: Bearer KEY or x-api-key";
      throw new ApiError(401, missing, { code: "invalid_api_key" });
    }
    const hash = sha256(given.trim());
    // All are compared, each in the same time.
    const [found] = this.#keys.filter((key) => timingSafeEqual(key.hash, hash));
    if (!found) throw new ApiError(401, "the API key is not known here", { code: "invalid_api_key" });
    return found;
  }
}
