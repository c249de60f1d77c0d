import { type OpenAI, toFile } from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { alice, bob, type Kept, kept, scripted } from "../testing.ts";
import { extractText } from "./extract.ts";

let server: Kept;
let now = 1_700_000_000;
beforeAll(async () => {
  const limits = { fileBytes: 1 << 16, files: 8, allFileBytes: 1 << 18 };
  server = await kept(() => ({ text: "hi" }), { limits, unixTime: () => now });
});
afterAll(() => server[Symbol.asyncDispose]());

const upload = (parts: Record<string, string | Blob>, headers: Record<string, string> = {}) => {
  const body = new FormData();
  for (const [name, value] of Object.entries(parts))
    if (typeof value === "string") body.set(name, value);
    else body.set(name, value, "a.txt");
  return fetch(`${server.url}/v1/files`, {
    method: "POST",
    body,
    headers: { authorization: `Bearer ${bob}`, ...headers },
  });
};

test("a file goes up, is listed, read and deleted by its owner alone, and is there after a restart", async () => {
  const mine = server.clientOf(alice);
  const file = await mine.files.create({ file: await toFile(Buffer.from('{"a":1}\n'), "in.jsonl"), purpose: "batch" });
  expect(file).toMatchObject({ object: "file", bytes: 8, filename: "in.jsonl", purpose: "batch", status: "processed" });
  const second = await mine.files.create({ file: await toFile(Buffer.from("x"), "b"), purpose: "user_data" });
  await server.restart();
  const again = server.clientOf(alice);
  expect(await again.files.retrieve(file.id)).toEqual(file);
  expect((await again.files.list()).data.map(({ id }) => id)).toEqual([second.id, file.id]);
  expect((await again.files.list({ purpose: "batch" })).data).toHaveLength(1);
  const first = await again.files.list({ limit: 1, order: "asc" });
  expect([first.data[0]!.id, first.has_more]).toEqual([file.id, true]);
  expect(await (await again.files.content(file.id)).text()).toBe('{"a":1}\n');
  const other = server.clientOf(bob);
  expect((await other.files.list()).data).toEqual([]);
  for (const ask of [other.files.retrieve(file.id), other.files.content(file.id), other.files.delete(file.id)])
    await expect(ask).rejects.toMatchObject({ status: 404 });
  expect(await again.files.delete(file.id)).toEqual({ id: file.id, object: "file", deleted: true });
  await expect(again.files.retrieve(file.id)).rejects.toMatchObject({ status: 404 });
  await again.files.delete(second.id);
});

test("file-extract gives the text of text and HTML, and refuses the rest at once", async () => {
  const html =
    "<html><head><title>T&auml;</title><style>x{}</style></head><body><p>one &lt; two<script>alert(1)</script><p>three</html>";
  const extract = async (bytes: Buffer, name: string) => {
    const purpose = "file-extract" as OpenAI.FilePurpose;
    const { id } = await server.clientOf(alice).files.create({ file: await toFile(bytes, name), purpose });
    const text = await (await server.clientOf(alice).files.content(id)).text();
    await server.clientOf(alice).files.delete(id);
    return text;
  };
  expect(await extract(Buffer.from("# Grüß\n世界"), "a.md")).toBe("# Grüß\n世界");
  expect(await extract(Buffer.from(html), "page.html")).toBe("Tä\n\none < two\nthree");
  for (const [bytes, name] of [
    [Buffer.from("%PDF-1.7 x"), "a.pdf"],
    [Buffer.from([0xff, 0xfe, 0x41]), "a.txt"],
    [Buffer.from("PK\x03\x04"), "a.docx"],
    [Buffer.from("a\0b"), "a.txt"],
  ] as const)
    await expect(extract(bytes, name)).rejects.toMatchObject({ status: 400, param: "file" });
});

test("hostile pages cost no more than their length", () => {
  for (const piece of ["<script", "<!--", "<", "&#x", "<p", "<script></scrip", "\n ", "<a <b"]) {
    // With its square it would not end.
    const page = `<html>${piece.repeat((1 << 20) / piece.length)}`;
    expect(extractText(Buffer.from(page), "a.html").length).toBeLessThan(page.length);
  }
});

test("uploads are bounded and read strictly; what is over expires", async () => {
  const file = new Blob(["x"]);
  const refused = async (response: Promise<Response>) => {
    const { status } = await response;
    const { error } = (await (await response).json()) as { error: { param: string | null } };
    return [status, error.param];
  };
  expect(await refused(upload({ file, purpose: "vision" }))).toEqual([400, "purpose"]);
  expect(await refused(upload({ file }))).toEqual([400, "purpose"]);
  expect(await refused(upload({ file, purpose: "batch", colour: "red" }))).toEqual([400, "colour"]);
  expect(await refused(upload({ file: "text", purpose: "batch" }))).toEqual([400, "file"]);
  expect(await refused(upload({ file: new Blob([]), purpose: "batch" }))).toEqual([400, "file"]);
  expect(await refused(upload({ file: new Blob(["x".repeat(70_000)]), purpose: "batch" }))).toEqual([413, "file"]);
  expect((await refused(upload({ file: new Blob(["x".repeat(200_000)]), purpose: "batch" })))[0]).toBe(413);
  const plain = { authorization: `Bearer ${bob}`, "content-type": "multipart/form-data; boundary=x" };
  const broken = fetch(`${server.url}/v1/files`, { method: "POST", body: "--y nonsense", headers: plain });
  expect((await refused(broken))[0]).toBe(400);
  const json = { ...plain, "content-type": "application/json" };
  expect((await refused(fetch(`${server.url}/v1/files`, { method: "POST", body: "{}", headers: json })))[0]).toBe(415);
  for (let i = 0; i < 8; i++) {
    const expiry = { "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600" };
    expect((await upload({ file, purpose: "batch", ...expiry })).status).toBe(200);
  }
  expect((await refused(upload({ file, purpose: "batch" })))[0]).toBe(429);
  now += 3601;
  expect((await server.clientOf(bob).files.list()).data).toEqual([]);
  for (const id of ["..%2F..%2Fetc%2Fpasswd", "file-x"]) {
    const headers = { authorization: `Bearer ${bob}` };
    expect((await fetch(`${server.url}/v1/files/${id}/content`, { headers })).status).toBe(404);
  }
});

test("without a folder there are no files, and the answer says how", async () => {
  await using bare = await scripted(() => ({ text: "hi" }));
  const told = (await (await fetch(`${bare.url}/v1/files`)).json()) as { error: { message: string } };
  expect(told.error.message).toContain("--state DIR");
});
