// SPDX-License-Identifier: Apache-2.0
// What a crash of the machine, or a bad disk, can do to what erofsd-nydusd keeps: it starts, says
// in one line what is damaged, serves what it can, and never a wrong byte.

import { match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fsidOf } from "../../src/nydusd/fsid.ts";
import { Nydusd } from "./nydusd-process.ts";
import { Site } from "./nydusd-site.ts";
import { bindImage, watched } from "./nydusd-steps.ts";
import { nydusImage } from "./support/nydus-images.ts";
import { dropCaches, must } from "./support/run.ts";
import { SLOWNESS, fullOnly, fullTest } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;
const IMAGES = [
  { id: "2", image: nydusImage("zstd-sha256") },
  { id: "3", image: nydusImage("nydus-batch") },
];

type Damage = (path: string) => Promise<void>;

async function cut(path: string): Promise<void> {
  const { length } = await readFile(path);
  await truncate(path, Math.floor(length / 2));
}

/** A digit or a letter becomes another one, so that text stays text. */
async function turnBit(path: string): Promise<void> {
  const bytes = await readFile(path);
  let at = Math.floor(bytes.length * 0.7);
  while (bytes.length > at + 1 && !/[0-9a-e]/.test(String.fromCharCode(bytes[at] ?? 0))) at += 1;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await writeFile(path, bytes);
}

const empty: Damage = (path) => truncate(path, 0);

const CASES: readonly {
  /** A file, or a directory all of whose files are damaged. */
  readonly of: string;
  readonly damages: readonly Damage[];
  readonly says: RegExp;
}[] = [
  { of: "bindings.json", damages: [cut, turnBit, empty], says: /not a state document/ },
  { of: "maps", damages: [cut, turnBit], says: /not a chunk map/ },
  { of: "bootstraps", damages: [cut, turnBit], says: /not the bootstrap it is named by/ },
  { of: "nydusd-images.json", damages: [cut, turnBit], says: /the journal of images is damaged/ },
];

fullOnly("damaged state in nydusd's place", () => {
  let site: Site;
  before(async () => {
    site = await Site.make();
    const daemon = await site.start({ supervised: false });
    await watched([daemon], async () => {
      for (const { id, image } of IMAGES) await bindImage(daemon, site, { id, name: image.name });
      await readAll();
      strictEqual(await daemon.end("SIGTERM"), 0);
    });
  });
  after(() => site.stop());

  const readAll = async (): Promise<void> => {
    for (const { id, image } of IMAGES) {
      const target = await site.mount(fsidOf(id));
      await site.expectTree(target, image.expectation);
      await site.umount(target);
    }
  };

  for (const { of, damages, says } of CASES) {
    for (const damage of damages) {
      test(`${of}, ${damage.name}: said in one line, and all images are served`, {
        timeout,
      }, async () => {
        const path = join(site.root, "cache/state", of);
        const names = of.endsWith(".json") ? [""] : await readdir(path);
        const files = names.filter((name) => !name.endsWith(".damaged"));
        ok(files.length > 0);
        for (const name of files) await damage(join(path, name));
        const daemon = await site.start({ supervised: false });
        await watched([daemon], async () => {
          await readAll();
          strictEqual(await daemon.end("SIGTERM"), 0);
          const lines = daemon.output.split("\n").filter((line) => says.test(line));
          strictEqual(lines.length, files.length, daemon.output);
        });
        // For the next case.
        for (const name of files) await rm(`${join(path, name)}.damaged`, { force: true });
        const again = await site.start({ supervised: false });
        await watched([again], async () => {
          for (const { id, image } of IMAGES)
            await bindImage(again, site, { id, name: image.name });
          strictEqual(await again.end("SIGTERM"), 0);
        });
      });
    }
  }

  fullTest("all of it lost: nothing is mounted until it is bound again", { timeout }, async () => {
    await rm(join(site.root, "cache/state"), { recursive: true });
    const daemon = await site.start({ supervised: false });
    await watched([daemon], async () => {
      notStrictEqual((await site.tryMount(fsidOf("2"), "/mnt")).status, 0);
      for (const { id, image } of IMAGES) await bindImage(daemon, site, { id, name: image.name });
      await readAll();
      strictEqual(await daemon.end("SIGTERM"), 0);
    });
  });

  fullTest("damaged while an image is mounted and no daemon runs", { timeout }, () =>
    damagedUnderMount(site),
  );

  test("an API socket that a dead daemon left, and what is none", { timeout }, async () => {
    const args = site.args({ supervised: false });
    const socket = args[args.indexOf("--apisock") + 1] ?? "";
    const leave = `import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])`;
    await must("python3", ["-c", leave, socket]);
    ok(existsSync(socket));
    const daemon = await site.start({ supervised: false });
    await watched([daemon], async () => {
      await readAll();
      const second = new Nydusd(args);
      strictEqual(await second.end(), 1);
      match(second.output, /a running daemon answers at/);
      strictEqual(await daemon.end("SIGTERM"), 0);
    });
    await writeFile(socket, "somebody's file");
    const refused = new Nydusd(args);
    strictEqual(await refused.end(), 1);
    match(refused.output, /exists and is no socket/);
    strictEqual(await readFile(socket, "utf8"), "somebody's file");
    await rm(socket);
  });

  fullTest("a supervisor that is gone: sendfd says so, and images are served", { timeout }, () =>
    supervisorGone(site, readAll),
  );
});

async function supervisorGone(site: Site, readAll: () => Promise<void>): Promise<void> {
  const daemon = await site.start({ supervised: true });
  await watched([daemon], async () => {
    const startMs = performance.now();
    const answered = await daemon.ask("PUT", "/api/v1/daemon/fuse/sendfd");
    ok(performance.now() - startMs < 5000);
    strictEqual(answered.status, 500);
    match(
      JSON.stringify(answered.body),
      /Upgrade\(DaemonAbnormal\(UpgradeManager\(.*cannot be sent/,
    );
    await readAll();
    strictEqual(await daemon.end("SIGTERM"), 0);
  });
}

/** The keeper holds the device: what the mount has read and what it has not must both be right. */
async function damagedUnderMount(site: Site): Promise<void> {
  const daemons = [await site.start({ supervised: false })];
  await watched(daemons, async () => {
    const [daemon] = daemons;
    if (daemon === undefined) return;
    const { image } = IMAGES[1] ?? IMAGES[0] ?? {};
    if (image === undefined) return;
    // A domain in which nothing is cached yet.
    await bindImage(daemon, site, { id: "7", name: image.name, domain: "fresh" });
    const target = await site.mount(fsidOf("7"), "fresh");
    await untilKept(site);
    await daemon.end("SIGKILL");
    const state = join(site.root, "cache/state");
    await turnBit(join(state, "bindings.json"));
    for (const of of ["maps", "bootstraps"]) {
      for (const name of await readdir(join(state, of))) await turnBit(join(state, of, name));
    }
    const next = await site.start({ supervised: false });
    daemons.push(next);
    await site.expectTree(target, image.expectation);
    await dropCaches();
    await site.expectTree(target, image.expectation);
    await site.umount(target);
    const again = await site.mount(fsidOf("7"), "fresh");
    await site.expectTree(again, image.expectation);
    await site.umount(again);
    strictEqual(await next.end("SIGTERM"), 0);
  });
}

async function untilKept(site: Site): Promise<void> {
  const socket = join(site.root, "cache/state/keeper/keeper.sock");
  for (let left = 100; left > 0 && !existsSync(socket); left -= 1) await sleep(50);
  ok(existsSync(socket), "there is no keeper");
}
