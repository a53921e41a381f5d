// SPDX-License-Identifier: Apache-2.0
// Prefetch by the command line, of images that are not mounted, on this kernel's fanotify: what was
// prefetched is there for a later mount without a registry, and a prefetch outlives its daemon.

import { cp, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import * as z from "zod";
import { mkfsErofs } from "../support/mkfs.ts";
import { writeHostTree } from "./support/content.ts";
import { Site, end, must, program, withPlainMount } from "./support/site.ts";

const timeout = 120_000;
const view = z.looseObject({
  id: z.string(),
  state: z.string(),
  cachedBytes: z.number(),
  totalBytes: z.number(),
});

let site: Site;
let tree: string;

beforeAll(async () => {
  // What each READ of the kernel found is told at this level alone.
  site = await Site.start({ logLevel: "trace" });
  tree = await writeHostTree(site.home);
}, timeout);

afterAll(() => site.stop(), timeout);

beforeEach(async () => {
  await site.umountAll();
  await site.untilIdle();
}, timeout);

/** An image with nothing of it in the cache. */
async function pushOnlyHere(name: string) {
  const own = join(site.home, `tree-${name}`);
  await cp(join(tree, "many"), join(own, "many"), { recursive: true });
  await cp(join(tree, "large"), join(own, "large"));
  await writeFile(join(own, "name"), name);
  const image = join(site.home, `${name}.erofs`);
  await mkfsErofs(image, own, []);
  return { own, reference: await site.pushRaw(image, name) };
}

const look = async (...args: string[]) =>
  view.parse(JSON.parse(await site.erofsd(["prefetch", ...args, "--json"])));

async function looked(id: string) {
  const { prefetches } = z
    .object({ prefetches: z.array(view) })
    .parse(JSON.parse(await site.erofsd(["prefetch", "ls", "--json"])));
  const found = prefetches.find((one) => one.id === id);
  if (found === undefined) throw new Error(`there is no prefetch ${id}`);
  return found;
}

const help = await end("mkfs.erofs", ["--help"]).then(({ stdout, stderr }) => stdout + stderr);
const KINDS = [
  "-zlz4",
  "-zlz4hc -C65536",
  "-zlz4 -Elegacy-compress",
  "-zlz4hc -C65536 -Eztailpacking",
  "-zlz4hc -C32768 -Efragments,ztailpacking",
  "-zlz4 -C65536 -Eall-fragments",
  "-zlz4hc -C32768 -Ededupe,legacy-compress",
  "-zlz4hc -C32768 -Ededupe,fragments",
  "-zlzma -C65536 -Eztailpacking",
  "-zdeflate -C65536 -Efragments",
  "-zzstd -C131072 -Ededupe,fragments",
].filter((kind) => kind.startsWith("-zlz4") || /\bzstd\b/.test(help));

/** Files that compress well, badly and in part, of many sizes: some in `wanted`, more in `other`. */
async function writeMixed(home: string): Promise<void> {
  const text = await readFile(join(tree, "text"));
  const noise = await readFile(join(tree, "large"));
  const mixed = (n: number, bytes: number): Buffer =>
    Buffer.concat([
      noise.subarray(n * 50_000, n * 50_000 + bytes / 4),
      text.subarray(n * 3000, n * 3000 + bytes / 2),
      noise.subarray(5 << 20, (5 << 20) + bytes / 4),
    ]);
  for (const name of ["wanted", "other"]) {
    await mkdir(join(home, name, "small"), { recursive: true });
    const from = name === "wanted" ? 0 : 40;
    for (let n = from; n < from * 3 + 20; n += 1) {
      await writeFile(join(home, name, String(n)), mixed(n, 20_000 + n * 1000));
      await writeFile(join(home, name, "small", String(n)), mixed(n, 100 + n * 50));
    }
  }
}

/** What the cache has of it, and holes. */
async function copyOfCached(image: string): Promise<string> {
  const [sum = ""] = (await must("sha256sum", [image])).split(" ");
  const cached = (await site.cacheFiles()).find((name) => name.includes(sum));
  const copy = `${image}.cached`;
  await must("cp", ["--sparse=always", cached ?? "", copy]);
  return copy;
}

/** What cmp and diff say of the files that checkCompressed prefetches; a missing one is told, too. */
async function differences(own: string, shown: string): Promise<string> {
  const told = [await end("diff", ["-r", join(own, "wanted"), join(shown, "wanted")])];
  for (let n = 40; n < 50; n += 1) {
    const [here, there] = [own, shown].map((at) => join(at, "other", "small", String(n)));
    told.push(await end("cmp", [here ?? "", there ?? ""]));
  }
  return told.map(({ stdout, stderr }) => stdout + stderr).join("");
}

async function checkCompressed(own: string, kind: string): Promise<void> {
  const image = join(site.home, `mixed${kind}.erofs`);
  await mkfsErofs(image, own, kind.split(" "));
  const reference = await site.pushRaw(image, `mixed${kind.replaceAll(/[^a-z0-9]+/gi, "-")}`);
  const last = await look(reference, "--paths", "/wanted", "--glob", "other/small/4?");
  expect([kind, last.state, last.cachedBytes]).toEqual([kind, "done", last.totalBytes]);
  expect(last.totalBytes, kind).toBeLessThan((await stat(image)).size / 3);
  // As the kernel sees what is there now, with zeros for the rest.
  const copy = await copyOfCached(image);
  expect(await withPlainMount(copy, (shown) => differences(own, shown)), kind).toBe("");
  const mounted = await site.mount(reference);
  await site.daemon.status();
  const seen = site.daemon.log.length;
  expect(await differences(own, mounted), kind).toBe("");
  await site.daemon.status();
  const replies = site.daemon.log.slice(seen).filter(({ msg }) => msg === "reply");
  expect(
    replies.filter(({ found }) => found !== "hit"),
    kind,
  ).toEqual([]);
}

test(
  "compressed files are there after a prefetch of these, and not much else is",
  async () => {
    const own = join(site.home, "mixed");
    await writeMixed(own);
    for (const kind of KINDS) await checkCompressed(own, kind);
  },
  3 * timeout,
);

describe("an image that nobody has mounted", () => {
  test(
    "is all there after a prefetch: a mount needs no registry and no mark",
    async () => {
      const { own, reference } = await pushOnlyHere("whole");
      const last = await look(reference);
      expect([last.state, last.cachedBytes]).toEqual(["done", last.totalBytes]);
      await site.untilIdle();
      const inspected: unknown = JSON.parse(await site.erofsd(["inspect", reference, "--json"]));
      expect(inspected).toMatchObject({ open: false, cachedBytes: last.totalBytes });
      const before = (await site.daemon.status()).source.bytes;
      const mounted = await site.mount(reference);
      expect(await site.marks()).toEqual([]);
      expect(await end("diff", ["-r", own, mounted])).toMatchObject({ code: 0, stdout: "" });
      expect((await site.daemon.status()).source.bytes - before).toBeLessThan(16_384);
    },
    timeout,
  );

  test(
    "has some files there after a prefetch of these",
    async () => {
      const { own, reference } = await pushOnlyHere("some");
      const last = await look(reference, "--paths", "/name", "--glob", "man*/**");
      expect(last.state).toBe("done");
      const mounted = await site.mount(reference);
      await site.stopRegistry();
      for (const name of ["name", "many"]) {
        const same = await end("diff", ["-r", join(own, name), join(mounted, name)]);
        expect(same).toMatchObject({ code: 0, stdout: "" });
      }
      expect((await end("cat", [join(mounted, "large")])).code).not.toBe(0);
      await site.startRegistry();
      const socket = ["--socket", site.daemon.socketPath];
      const words = [program, "prefetch", reference, "--glob", "*.none"];
      const none = await end(process.execPath, words.concat(socket));
      expect(none.code).toBe(2);
      expect(none.stderr).toContain('no file matches "*.none"');
    },
    timeout,
  );

  test(
    "is prefetched on after the daemon was killed in the middle",
    async () => {
      const { own, reference } = await pushOnlyHere("killed");
      const { id } = await look(reference, "--limit-rate", "1MB", "--detach");
      await site.until(
        "a part of it is there",
        async () => (await looked(id)).cachedBytes > 1 << 20,
      );
      await site.crash(() => Promise.resolve());
      await site.until("it goes on", async () => (await looked(id)).state === "running");
      const joined = z
        .looseObject({ id: z.string(), joined: z.boolean() })
        .parse(JSON.parse(await site.erofsd(["prefetch", reference, "--detach", "--json"])));
      expect(joined).toMatchObject({ id, joined: true });
      await site.erofsd(["prefetch", "set", id, "--limit-rate", "0"]);
      await site.until("it is done", async () => (await looked(id)).state === "done", 30_000);
      await site.untilIdle();
      const mounted = await site.mount(reference);
      expect(await site.marks()).toEqual([]);
      expect((await must("diff", ["-r", own, mounted])).trim()).toBe("");
    },
    timeout,
  );
});
