/** What a person sees when something is wrong: what was found, what was expected, what to do next. */
export interface TorchTrouble {
  found: string;
  expected?: string;
  fix?: string;
  cause?: unknown;
}

/** The one error class of `@massif/torch`. `code` is stable (`torch.what`); the message is for people. */
export class TorchError extends Error {
  readonly code: string;
  readonly trouble: TorchTrouble;

  constructor(code: string, trouble: TorchTrouble) {
    const lines = [trouble.found];
    if (trouble.expected) lines.push(`expected: ${trouble.expected}`);
    if (trouble.fix) lines.push(`to fix: ${trouble.fix}`);
    super(lines.join("\n  "), { cause: trouble.cause });
    this.name = "TorchError";
    this.code = code;
    this.trouble = trouble;
  }
}
