/** What a server signs with, kept in its folder so that what it signed holds after a restart. */
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export function keptSecret(folder: string): string {
  const path = join(folder, "secret");
  if (!existsSync(path)) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(path, randomUUID(), { mode: 0o600 });
  }
  return readFileSync(path, "utf8");
}
