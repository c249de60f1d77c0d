import { existsSync } from "node:fs";
import { MassifError } from "../common/index.ts";
import { listen } from "../server/listen.ts";
import { Service } from "../server/service.ts";
import { type Command, parse } from "./command.ts";

export const studio: Command = {
  summary: "run folders in the browser, as they grow: curves, experts, episodes",
  help: `massif studio [RUN…] [--port P]

Shows run folders, and those that other folders hold (default: runs), while they are written or long after. It reads and
never writes, on 127.0.0.1 only.
  --port P   default 8100; 0 takes a free one

Example:
  massif studio runs/speedrun runs/speedrun-rl`,
  async run(args) {
    const { values, positionals } = parse(args, { port: { type: "string", default: "8100" } });
    const runs = positionals.length ? positionals : ["runs"];
    for (const run of runs) {
      if (existsSync(run)) continue;
      throw new MassifError("cli.usage", {
        found: `there is no folder ${run}`,
        expected: "run folders, or a folder that holds some",
        fix: "npm start makes one in runs/speedrun",
      });
    }
    const port = Number(values.port);
    if (!Number.isInteger(port) || port < 0 || port > 65535)
      throw new MassifError("cli.usage", {
        found: `--port ${values.port}`,
        expected: "a whole number from 0 to 65535",
      });
    const service = new Service();
    service.loading = "this is massif studio: it shows runs and has no model (massif serve has)";
    const server = await listen({ service, runs, port, grace: 0 });
    console.log(`runs: ${server.url}/runs`);
    await new Promise<void>((resolve) => {
      for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
      process.once("disconnect", resolve); // npm start, which shows its runs by this, is no more.
    });
    await server.close();
    return 0;
  },
};
