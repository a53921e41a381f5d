// SPDX-License-Identifier: Apache-2.0
// A daemon with a fresh cache, the mounts made of it, and a registry: what a test starts with.

import { ok } from "node:assert/strict";
import { mkdir, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ask } from "../../../src/control/client.ts";
import { madeMount } from "../../../src/control/mount-schema.ts";
import type { Status } from "../../../src/control/schema.ts";
import {
  type DaemonStart,
  type LogLine,
  type RunningDaemon,
  startDaemon,
} from "../../support/daemon.ts";
import { type RunningRegistry, startDockerRegistry } from "../../support/docker-registry.ts";
import { Catalogue, type TestImage } from "../images/catalogue.ts";
import { type Ended, erofsd, must, run } from "./run.ts";
import { DISK, DOMAIN, IMAGES_ROOT, PROGRAM, SLOWNESS } from "./settings.ts";

export const catalogue = await Catalogue.load(IMAGES_ROOT);

const SLOW_LIMITS =
  '[limits]\nopen_timeout = "2m"\nread_timeout = "2m"\n[registry]\nconnect_timeout = "1m"\nheaders_timeout = "1m"\nstall_timeout = "1m"\n';

/** The images' storage, writable: what is pushed into it goes to memory. */
const storage = await overlayOf(catalogue.storage);

export function startRegistry(port?: number): Promise<RunningRegistry> {
  return startDockerRegistry({ storage, ...(port === undefined ? {} : { port }) });
}

interface RigOptions {
  readonly config: string | undefined;
  readonly command: DaemonStart["command"];
}

export class Rig {
  daemon: RunningDaemon;
  readonly cacheDir: string;
  readonly #config: string | undefined;
  readonly #command: DaemonStart["command"];
  readonly #mounts = new Set<string>();
  /** Lines of the log before the last attempt to mount are of earlier ones. */
  #complaintsFrom = 0;

  private constructor(daemon: RunningDaemon, cacheDir: string, options: RigOptions) {
    this.daemon = daemon;
    this.cacheDir = cacheDir;
    this.#config = options.config;
    this.#command = options.command;
  }

  static async start(config?: string, command: DaemonStart["command"] = "serve"): Promise<Rig> {
    const cacheDir = join(await mkdtemp(join(DISK, "rig-")), "cache");
    return new Rig(await startIn(cacheDir, { config, command }), cacheDir, { config, command });
  }

  /** Starts a rig for a suite. When it fails the registry is stopped: the process would wait for it. */
  static async beside(registry: { stop: () => Promise<void> }, config?: string): Promise<Rig> {
    try {
      return await Rig.start(config);
    } catch (error) {
      await registry.stop();
      throw error;
    }
  }

  /** Starts a daemon again, on the same cache. The one before must have ended. */
  async restart(): Promise<void> {
    this.#complaintsFrom = 0;
    const options = { config: this.#config, command: this.#command };
    this.daemon = await startIn(this.cacheDir, options);
  }

  /** Takes away what a failed test left mounted. */
  async umountAll(): Promise<void> {
    for (const target of [...this.#mounts].toReversed()) await run("umount", ["-l", target]);
    this.#mounts.clear();
  }

  /** Unmounts everything and ends the daemon. */
  async stop(): Promise<void> {
    await this.umountAll();
    await this.daemon.stop();
  }

  async directory(): Promise<string> {
    return await mkdtemp(join(tmpdir(), "mnt-"));
  }

  /** As an operator does: `mount -t erofs`, by the reference alone. */
  async bareMount(fsid: string): Promise<string> {
    const target = await this.directory();
    const ended = await this.tryBareMount(fsid, target);
    ok(ended.status === 0, `mount ${fsid}: ${ended.stderr}\n${this.logText()}`);
    return target;
  }

  async tryBareMount(fsid: string, target: string, domain = DOMAIN): Promise<Ended> {
    const options = `fsid=${fsid},domain_id=${domain}`;
    this.#complaintsFrom = this.daemon.log.length;
    const ended = await run("mount", ["-t", "erofs", "-o", options, "none", target]);
    if (ended.status === 0) this.#mounts.add(target);
    return ended;
  }

  /** As `erofsd mount` does it, which itself would take seconds on an emulated processor. */
  async mount(reference: string): Promise<string> {
    const mountPoint = await this.directory();
    this.#complaintsFrom = this.daemon.log.length;
    const asked = { method: "POST", path: "/v1/mounts", body: { reference, mountPoint } } as const;
    await ask(this.daemon.socketPath, { ...asked, answer: madeMount, timeoutMs: 0 }).catch(
      (error: unknown) => {
        throw new Error(`mount ${reference}:\n${this.logText()}`, { cause: error });
      },
    );
    this.#mounts.add(mountPoint);
    return mountPoint;
  }

  /** `erofsd mount`. */
  async tryMount(reference: string, target: string): Promise<Ended> {
    this.#complaintsFrom = this.daemon.log.length;
    const ended = await erofsd("mount", "--socket", this.daemon.socketPath, reference, target);
    if (ended.status === 0) this.#mounts.add(target);
    return ended;
  }

  /** Mounts an image of the catalogue in the plainest way it can be mounted. */
  mountImage(host: string, image: TestImage): Promise<string> {
    const reference = `${host}/${image.repository}:${image.tag}`;
    return image.bareMount ? this.bareMount(reference) : this.mount(reference);
  }

  async umount(target: string): Promise<void> {
    await must("umount", [target]);
    this.#mounts.delete(target);
  }

  /** Every object of the daemon is closed: what was unmounted has been noticed. */
  async untilIdle(): Promise<Status> {
    return await this.untilStatus((status) => status.objects.length === 0);
  }

  /** Nothing is fetched or written any more: a reader is answered before the rest of its window is. */
  async untilQuiet(): Promise<void> {
    let before: Status | undefined;
    await this.untilStatus(async (status) => {
      const isQuiet =
        status.cache.writtenBytes === before?.cache.writtenBytes &&
        status.source.bytes === before.source.bytes;
      before = status;
      if (!isQuiet) await sleep(250 * SLOWNESS);
      return isQuiet;
    });
  }

  async untilStatus(test: (status: Status) => boolean | Promise<boolean>): Promise<Status> {
    for (const endMs = performance.now() + 10_000 * SLOWNESS; ; ) {
      const status = await this.daemon.status();
      if (await test(status)) return status;
      ok(performance.now() < endMs, `still ${JSON.stringify(status)}`);
    }
  }

  /** What `work` cost: kernel messages, requests, bytes. */
  async costOf(work: () => Promise<unknown>): Promise<Cost> {
    const before = await this.daemon.status();
    await work();
    return difference(before, await this.daemon.status());
  }

  /** A line logged after the first `from`, now or soon: the log arrives by a pipe. */
  async untilLogged(test: (line: LogLine) => boolean, from = 0): Promise<LogLine> {
    const late = sleep(5000 * SLOWNESS, undefined, { ref: false }).then(() => undefined);
    const earlier = new Set(this.daemon.log.slice(0, from));
    const found = this.daemon.untilLogged((line) => !earlier.has(line) && test(line));
    const line = await Promise.race([found, late]);
    ok(line !== undefined, `not logged:\n${this.logText()}`);
    return line;
  }

  logText(): string {
    return this.daemon.log
      .slice(-30)
      .map((line) => `daemon: ${line.msg}`)
      .join("\n");
  }

  /** The last line of level warn and above with this code since the last attempt to mount, now or soon. */
  async complaint(code: string): Promise<string> {
    const isOne = (line: LogLine): boolean => line.level >= 40 && line["code"] === code;
    const from = this.#complaintsFrom;
    const first = await this.untilLogged(isOne, from);
    return this.daemon.log.slice(from).findLast(isOne)?.msg ?? first.msg;
  }
}

export interface Cost {
  readonly reads: number;
  readonly opens: number;
  readonly requests: number;
  readonly fetchedBytes: number;
  readonly writtenBytes: number;
}

function difference(before: Status, after: Status): Cost {
  return {
    reads: after.kernelMessages.read - before.kernelMessages.read,
    opens: after.kernelMessages.open - before.kernelMessages.open,
    requests: after.source.requests - before.source.requests,
    fetchedBytes: after.source.bytes - before.source.bytes,
    writtenBytes: after.cache.writtenBytes - before.cache.writtenBytes,
  };
}

function startIn(
  cacheDir: string,
  { config, command = "serve" }: RigOptions,
): Promise<RunningDaemon> {
  const slow = SLOWNESS > 1 ? SLOW_LIMITS : undefined;
  const lines = config ?? slow;
  return startDaemon({
    program: PROGRAM,
    cacheDir,
    command,
    // Trying doors starts a program, which takes seconds there.
    ...(slow === undefined || config?.includes("[kernel]") === true
      ? {}
      : { first: 'kernel.door = "cachefiles"' }),
    ...(lines === undefined ? {} : { config: lines }),
  });
}

async function overlayOf(lower: string): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), "storage-"));
  const [upper, work, merged] = ["upper", "work", "merged"].map((name) => join(home, name));
  for (const directory of [upper, work, merged]) await mkdir(directory ?? "");
  const options = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
  await must("mount", ["-t", "overlay", "-o", options, "none", merged ?? ""]);
  return merged ?? "";
}
