// SPDX-License-Identifier: Apache-2.0
// Prefetch by the command line, of images that are not mounted, on this kernel's fanotify: what was
// prefetched is there for a later mount without a registry, and a prefetch outlives its daemon.

import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import * as z from "zod";
import { mkfsErofs } from "../support/mkfs.ts";
import { writeHostTree } from "./support/content.ts";
import { Site, end, must, program } from "./support/site.ts";

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
  site = await Site.start();
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
