/** Tensors that a trainer sends: the bytes of a safetensors file as the body, or the path of one under the root. */
import { createWriteStream, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { SafeTensors } from "@massif/torch";
import { ApiError, invalid } from "../errors.ts";
import type { Control } from "./control.ts";

/** Tensors of a file; those that were sent are gone with it. */
export class SentTensors implements Disposable {
  readonly file: SafeTensors;
  readonly #folder: string | undefined;

  /** Throws 400 where it is no safetensors file. */
  constructor(control: Control, path: string, folder?: string) {
    this.#folder = folder;
    try {
      this.file = control.read(path);
    } catch (cause) {
      this[Symbol.dispose]();
      const message = cause instanceof Error ? cause.message.replaceAll(path, "the file") : "no safetensors";
      throw new ApiError(400, message, { code: "invalid_weights", cause });
    }
  }

  /** From a body, on disk as it comes. Throws 413 beyond `most` bytes. */
  static async receive(control: Control, body: ReadableStream<Uint8Array> | null, most: number): Promise<SentTensors> {
    const folder = mkdtempSync(join(tmpdir(), "massif-tensors-"));
    const path = join(folder, "sent.safetensors");
    try {
      if (!body) throw invalid("body", "the bytes of a safetensors file");
      let size = 0;
      const counted = async function* () {
        for await (const piece of body) {
          size += piece.length;
          if (size > most) throw new ApiError(413, `more than ${most} bytes`, { code: "request_too_large" });
          yield piece;
        }
      };
      await pipeline(counted, createWriteStream(path));
      return new SentTensors(control, path, folder);
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** From base64 (SGLang's `serialized_named_tensors`, here of a safetensors file). */
  static decode(control: Control, base64: string): SentTensors {
    const folder = mkdtempSync(join(tmpdir(), "massif-tensors-"));
    const path = join(folder, "sent.safetensors");
    writeFileSync(path, Buffer.from(base64, "base64"));
    return new SentTensors(control, path, folder);
  }

  /** Throws 400. */
  static at(control: Control, path: string): SentTensors {
    if (!path.endsWith(".safetensors") || !statSync(path).isFile()) throw invalid("path", "not a .safetensors file");
    return new SentTensors(control, path);
  }

  [Symbol.dispose](): void {
    if (this.#folder !== undefined) rmSync(this.#folder, { recursive: true, force: true });
  }
}
