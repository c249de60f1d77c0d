import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { expect, test } from "vitest";

/** Opens a gateway over `url` in a process of its own, and tells what of libtorch that process has loaded. */
const script = (url: string) => `
const { openGateway, Service, listen } = await import(${JSON.stringify(new URL("../index.ts", import.meta.url).href)});
const service = new Service();
using gateway = await openGateway({ urls: [${JSON.stringify(url)}], model: "m", metrics: service.metrics });
service.add(gateway.backend);
const server = await listen({ service, grace: 10 });
const { status } = await fetch(server.url + "/v1/models");
await server.close();
const torch = process.report.getReport().sharedObjects.filter((path) => /torch/.test(path));
console.log(JSON.stringify({ status, torch }));
process.exit(0);
`;

test("a gateway loads no libtorch, and needs none on its machine", async () => {
  const upstream = createServer((_, response) => response.end('{"data":[{"id":"m"}]}'));
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  const { port } = upstream.address() as { port: number };
  const run = ["--input-type=module-typescript", "--no-warnings", "-e", script(`http://127.0.0.1:${port}/v1`)];
  const told = execFileSync(process.execPath, run, { encoding: "utf8", env: { PATH: "/nowhere" } });
  upstream.close();
  expect(JSON.parse(told)).toEqual({ status: 200, torch: [] });
});
