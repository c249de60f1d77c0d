/** `massif COMMAND …`: finds the command's file, runs it, and turns errors into exit codes (1 failed, 2 wrong call). */
import { MassifError, nearest } from "../common/index.ts";
import type { Command } from "./command.ts";

/** Loaded on demand: a command that needs no torch starts without it. */
const commands: Record<string, { summary: string; load: () => Promise<Command> }> = {
  chat: {
    summary: "talk with a model; render and parse: the K2 chat format on rows",
    load: async () => (await import("./chat.ts")).chat,
  },
  doctor: {
    summary: "what is on this machine, and what to do about what is missing",
    load: async () => (await import("./doctor.ts")).doctor,
  },
  generate: {
    summary: "let a model write",
    load: async () => (await import("./generate.ts")).generate,
  },
  inspect: {
    summary: "sizes of a model from its config: parameters, cache, FLOPs, memory",
    load: async () => (await import("./inspect.ts")).inspect,
  },
  parity: {
    summary: "compares logits, gradients, routing and text with Hugging Face transformers",
    load: async () => (await import("./parity.ts")).parity,
  },
  pretrain: {
    summary: "train a model on text, from a recipe",
    load: async () => (await import("./pretrain.ts")).pretrain,
  },
  rl: {
    summary: "reinforcement learning in worlds, from a recipe",
    load: async () => (await import("./rl.ts")).rl,
  },
  schema: {
    summary: "checks tool schemas by Moonshot's rules (walle)",
    load: async () => (await import("./schema.ts")).schema,
  },
  sft: {
    summary: "fine-tune a model on conversations, trajectories and demonstrations of worlds",
    load: async () => (await import("./sft.ts")).sft,
  },
  serve: {
    summary: "serve a model, or a gateway to other engines, as OpenAI, Anthropic and Responses APIs",
    load: async () => (await import("./serve.ts")).serve,
  },
  start: {
    summary: "the main job: text, tokenizer, a K2 model that learned it, samples and a report (npm start)",
    load: async () => (await import("./start.ts")).start,
  },
  studio: {
    summary: "run folders in the browser, as they grow: curves, experts, episodes",
    load: async () => (await import("./studio.ts")).studio,
  },
  tokenizer: {
    summary: "train a byte-level BPE vocabulary, encode text to ids, decode ids",
    load: async () => (await import("./tokenizer.ts")).tokenizer,
  },
  verify: {
    summary: "scores an endpoint as K2's vendor verifier does: schemas, decisions, leaks, streams",
    load: async () => (await import("./verify.ts")).verify,
  },
  "verify-trajectory": {
    summary: "re-run trajectories from their seeds: accepted, or the first reason why not",
    load: async () => (await import("./verify-trajectory.ts")).verifyTrajectory,
  },
  world: {
    summary: "check a world file (compiles, plans, oracle, exploits), or serve one over MCP",
    load: async () => (await import("./world.ts")).world,
  },
};

function usage(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  const rows = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`);
  return [
    "massif: the whole Kimi K2 recipe in TypeScript, on PyTorch's own kernels",
    "",
    ...rows,
    "",
    "massif COMMAND --help tells more, with an example.",
  ].join("\n");
}

async function main([name, ...args]: string[]): Promise<number> {
  if (!name || name === "help" || name === "--help" || name === "-h") {
    console.log(usage());
    return 0;
  }
  const entry = commands[name];
  if (!entry) {
    const like = nearest(name, Object.keys(commands));
    throw new MassifError("cli.usage", {
      found: `there is no command '${name}'`,
      fix: like ? `did you mean 'massif ${like}'?` : "massif --help lists them",
    });
  }
  const command = await entry.load();
  if (args.includes("--help") || args.includes("-h")) {
    console.log(command.help.trim());
    return 0;
  }
  return command.run(args);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  // TorchError says as much as MassifError does; by its name, so that no torch is loaded for it.
  if (!(error instanceof MassifError || (error instanceof Error && error.name === "TorchError"))) throw error;
  console.error(`massif: ${error.message}`);
  // What a person typed or configured wrongly is a wrong call; everything else has failed.
  process.exitCode = /^(cli|config)\./.test("code" in error ? String(error.code) : "") ? 2 : 1;
}
