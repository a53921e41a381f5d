// SPDX-License-Identifier: Apache-2.0
// A folder of hosts' folders, edited while it is used.
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { HostsBook } from "../../../../src/source/registry/hosts-book.ts";
import { registryUpstream } from "../../../../src/source/registry/upstream.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { tempDir } from "../../../support/temp-dir.ts";

const HOST = "registry.example:5000";

async function startBook(files: Readonly<Record<string, string>>) {
  const directory = await tempDir();
  const clock = new FakeClock();
  const warnings: string[] = [];
  const log = {
    debug: () => undefined,
    warn: (_: object, text: string) => void warnings.push(text),
  };
  const book = new HostsBook({ directory, clock, log });
  const write = async (path: string, text: string): Promise<void> => {
    await mkdir(join(directory, path, ".."), { recursive: true });
    await writeFile(join(directory, path), text);
  };
  for (const [path, text] of Object.entries(files)) await write(path, text);
  const look = (host = HOST) => book.upstreams(host, registryUpstream(host, "https"));
  const names = async (host = HOST) => (await look(host)).map(({ name }) => name);
  return { directory, clock, warnings, write, look, names };
}

const mirror = (name: string): string => `[host."https://${name}"]\n`;

it("without the folder, everything is as if it were not there", async () => {
  const { directory, names, warnings } = await startBook({});
  await rm(directory, { recursive: true });
  expect(await names()).toEqual([HOST]);
  expect(warnings).toEqual([]);
});

it.each([
  [["registry.example_5000_", "registry.example:5000", "_default"], "registry.example_5000_"],
  [["registry.example:5000", "_default"], "registry.example:5000"],
  [["_default", "registry.example"], "_default"],
  [["registry.example"], undefined],
])("of the folders %j takes %s", async (folders, wanted) => {
  const { names, write } = await startBook({});
  for (const [at, name] of folders.entries()) {
    await write(`${name}/hosts.toml`, mirror(`m${at}.example`));
  }
  const at = folders.indexOf(wanted ?? "");
  expect(await names()).toEqual(at === -1 ? [HOST] : [`m${at}.example`, HOST]);
});

it("takes _default for any host, also one without a port", async () => {
  const { names } = await startBook({ "_default/hosts.toml": mirror("all.example") });
  expect(await names("docker.io")).toEqual(["all.example", "registry-1.docker.io"]);
  expect(await names("[::1]:5000")).toEqual(["all.example", "[::1]:5000"]);
});

it("sees an edit in the background, and at once when it was not asked for long", async () => {
  const { clock, names, write, look } = await startBook({
    "_default/hosts.toml": mirror("one.example"),
  });
  expect(await names()).toEqual(["one.example", HOST]);
  await write("_default/hosts.toml", mirror("another.example"));
  expect(await names()).toEqual(["one.example", HOST]);
  await clock.advance(5_000);
  expect(await names()).toEqual(["one.example", HOST]);
  while ((await names())[0] === "one.example") await nextTurn();
  expect(await names()).toEqual(["another.example", HOST]);
  await write("_default/hosts.toml", mirror("a-third.example"));
  await clock.advance(60_000);
  expect(await names()).toEqual(["a-third.example", HOST]);
  await write("registry.example_5000_/hosts.toml", "");
  await clock.advance(60_000);
  expect((await look()).map(({ name }) => name)).toEqual([HOST]);
});

it("tells of a broken file once, by file and key, and reaches the host as ever", async () => {
  const { directory, clock, names, warnings, write } = await startBook({
    "_default/hosts.toml": `${mirror("m.example")}ca = 7\n`,
  });
  for (let asked = 0; asked < 3; asked += 1) {
    expect(await names()).toEqual([HOST]);
    await clock.advance(60_000);
  }
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toContain(`${directory}/_default/hosts.toml: host."https://m.example".ca: `);
  await write("_default/hosts.toml", mirror("m.example"));
  expect(await names()).toEqual(["m.example", HOST]);
  expect(warnings).toHaveLength(1);
});

it("takes docker's certificate files where there is no hosts.toml", async () => {
  const { directory, look, warnings } = await startBook({
    "registry.example:5000/ca.crt": "x",
    "registry.example:5000/client.cert": "x",
    "registry.example:5000/client.key": "x",
    "registry.example:5000/other.cert": "x",
  });
  const at = (name: string): string => join(directory, "registry.example:5000", name);
  const [only] = await look();
  expect(only?.tls).toMatchObject({
    caFiles: [at("ca.crt")],
    clientCertificates: [
      { certFile: at("client.cert"), keyFile: at("client.key") },
      { certFile: at("other.cert"), keyFile: undefined },
    ],
  });
  expect(warnings).toEqual([]);
});

it("gives certificates another version when their file has changed", async () => {
  const { clock, look, write } = await startBook({
    "_default/hosts.toml": 'ca = "own.crt"',
    "_default/own.crt": "one",
  });
  const version = async () => (await look())[0]?.tls.version;
  const first = await version();
  await clock.advance(60_000);
  expect(await version()).toBe(first);
  await write("_default/own.crt", "another");
  await clock.advance(60_000);
  expect(await version()).not.toBe(first);
});

it("tells that a file of certificates is missing", async () => {
  const { warnings, names } = await startBook({ "_default/hosts.toml": 'ca = "/none/such.crt"' });
  expect(await names()).toEqual([HOST]);
  expect(warnings).toEqual(["/none/such.crt: cannot be read"]);
});

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
