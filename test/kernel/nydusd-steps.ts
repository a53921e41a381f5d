// SPDX-License-Identifier: Apache-2.0
// The steps of a snapshotter that the tests of erofsd-nydusd share: bind, save, fail over.

import { strictEqual } from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { FIXTURES, readFixture } from "../support/rafs-fixtures.ts";
import { Nydusd } from "./nydusd-process.ts";
import { Site } from "./nydusd-site.ts";
import { nydusImage } from "./support/nydus-images.ts";

export async function withSite(work: (site: Site) => Promise<void>): Promise<void> {
  const site = await Site.make();
  try {
    await work(site);
  } finally {
    await site.stop();
  }
}

/** Kills what a failed test left running, and says what it logged. */
export async function watched(daemons: Nydusd[], work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    throw new Error(daemons.map(({ output }) => output).join("\n---\n"), { cause: error });
  } finally {
    for (const daemon of daemons) if (!daemon.hasEnded) await daemon.end("SIGKILL");
  }
}

export async function bind(daemon: Nydusd, site: Site, id: string): Promise<void> {
  const answered = await daemon.ask("PUT", "/api/v2/blobs", site.body(id));
  strictEqual(answered.status, 204, JSON.stringify(answered.body));
}

/** Unpacks and binds an image as this snapshot's: tags from the registry, others from a directory. */
export async function bindImage(
  daemon: Nydusd,
  site: Site,
  image: { id: string; name: string; domain?: string },
): Promise<void> {
  const { id, name, domain } = image;
  await site.unpack(id, readFixture(name));
  const body = site.body(id, domain === undefined ? {} : { domain_id: domain });
  const isDirectory = nydusImage(name).expectation === "directory";
  const config = isDirectory
    ? { backend_type: "localfs", backend_config: { dir: join(FIXTURES, "directory", name) } }
    : {};
  const sent = { ...body, config: { ...body.config, ...config } };
  const answered = await daemon.ask("PUT", "/api/v2/blobs", sent);
  strictEqual(answered.status, 204, JSON.stringify(answered.body));
}

export async function save(daemon: Nydusd, site: Site): Promise<number> {
  const received = await site.supervisor.receive();
  const { status } = await daemon.ask("PUT", "/api/v1/daemon/fuse/sendfd");
  strictEqual(status, 204);
  return (await received.done).bytes;
}

/** Failover as the snapshotter does it, after the daemon's death. */
export async function failover(site: Site, daemons: Nydusd[]): Promise<Nydusd> {
  const offered = await site.supervisor.offer();
  const next = new Nydusd(site.args({ supervised: true }));
  daemons.push(next);
  await next.untilListening();
  await next.untilState("INIT");
  strictEqual((await next.ask("PUT", "/api/v1/daemon/fuse/takeover")).status, 204);
  await offered.done;
  strictEqual((await next.ask("PUT", "/api/v1/daemon/start")).status, 204);
  strictEqual(await next.state(), "RUNNING");
  return next;
}

/** The daemon with this directory on its command line. */
export async function findDaemon(root: string): Promise<{ pid: number }> {
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const words = await readFile(`/proc/${name}/cmdline`, "utf8").catch(() => "");
    if (words.startsWith(process.execPath) && words.includes(`${root}/cache`)) {
      return { pid: Number(name) };
    }
  }
  throw new Error("no daemon is left");
}
