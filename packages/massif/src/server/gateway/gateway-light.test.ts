import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { expect, test } from "vitest";

/** Opens a gateway over `url` in a process of its own, as `massif serve` does, and tells what that process has loaded. */
const script = (url: string) => `
import { registerHooks } from "node:module";
const loaded = [];
registerHooks({ load: (url, context, next) => (loaded.push(url), next(url, context)) });
await import(${JSON.stringify(new URL("../../cli/serve.ts", import.meta.url).href)});
const { openGateway, Service, listen } = await import(${JSON.stringify(new URL("../index.ts", import.meta.url).href)});
const service = new Service();
using gateway = await openGateway({ urls: [${JSON.stringify(url)}], model: "m", metrics: service.metrics });
service.add(gateway.backend);
const server = await listen({ service, grace: 10 });
const { status } = await fetch(server.url + "/v1/models");
await server.close();
const shared = process.report.getReport().sharedObjects;
console.log(JSON.stringify({ status, loaded, shared }));
process.exit(0);
`;

test("a gateway loads no torch, neither its library nor a module over it, and needs none on its machine", async () => {
  const upstream = createServer((_, response) => response.end('{"data":[{"id":"m"}]}'));
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  const { port } = upstream.address() as { port: number };
  const run = ["--input-type=module-typescript", "--no-warnings", "-e", script(`http://127.0.0.1:${port}/v1`)];
  const told = execFileSync(process.execPath, run, { encoding: "utf8", env: { PATH: "/nowhere" } });
  upstream.close();
  const { status, loaded, shared } = JSON.parse(told) as { status: number; loaded: string[]; shared: string[] };
  expect(status).toBe(200);
  expect(loaded.some((url) => url.endsWith("/server/gateway/gateway.ts"))).toBe(true);
  const numeric = /\/packages\/torch\/|\/massif\/src\/(model|optim|train|engine|rl)\//;
  expect(loaded.filter((url) => numeric.test(url))).toEqual([]);
  expect(shared.filter((path) => /torch/.test(path))).toEqual([]);
});
