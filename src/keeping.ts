// SPDX-License-Identifier: Apache-2.0
// What outlives the daemon: the fds that tie it to the kernel. A keeper holds copies of them, and
// systemd's fd store too where there is one; the next daemon takes them up, whichever is left.

import { DaemonError, asDaemonError } from "./errors.ts";
import {
  type HeldFds,
  type HeldName,
  type KeeperLink,
  askKeeper,
  keepWith,
  keeperSocket,
  takeFromKeeper,
} from "./kernel/keeper.ts";
import type { Log } from "./platform/log.ts";
import type { Native } from "./platform/native.ts";
import type { Systemd } from "./platform/systemd.ts";

const NAMES: readonly HeldName[] = ["cachefiles", "fanotify", "journal"];

export interface KeepingParts {
  readonly native: Native;
  readonly log: Log;
  readonly systemd: Systemd;
  readonly cacheDir: string;
}

/**
 * What a daemon before us left, by systemd's hand (`passed`) or the keeper's; the fds are the
 * caller's. `follows`: the daemon that has made way for us. Faults: syscall_failed, keeper_running.
 */
export async function takeHeld(
  { native, cacheDir, log }: KeepingParts,
  { passed, follows }: { passed: Map<string, readonly number[]>; follows: number | undefined },
): Promise<HeldFds> {
  const stored: { [name in HeldName]?: number } = {};
  for (const name of NAMES) {
    const [first, ...rest] = passed.get(storeName(name)) ?? [];
    passed.delete(storeName(name));
    for (const fd of rest) native.close(fd);
    if (first !== undefined) stored[name] = first;
  }
  const socketPath = keeperSocket(cacheDir);
  const keptBy = await askKeeper({ native, socketPath });
  const pid = keptBy?.daemon ?? 0;
  if (pid !== 0 && pid !== process.pid && pid !== follows) {
    throw new DaemonError({ code: "keeper_running", socket: socketPath, pid });
  }
  const kept = await takeFromKeeper({ native, socketPath });
  const isStored = stored.cachefiles !== undefined || stored.fanotify !== undefined;
  const [held, spare] = isStored ? [stored, kept] : [kept, stored];
  for (const fd of Object.values(spare)) native.close(fd);
  const names = Object.keys(held);
  if (names.length > 0) log.info({ from: isStored ? "systemd" : "the keeper" }, "taken up");
  return held;
}

export class Keeping {
  readonly #parts: KeepingParts;
  readonly #fds: HeldFds;
  readonly #link: KeeperLink | undefined;

  private constructor(parts: KeepingParts, fds: HeldFds, link: KeeperLink | undefined) {
    this.#parts = parts;
    this.#fds = fds;
    this.#link = link;
  }

  /**
   * Has `fds` kept. Fault: fanotify_unsafe, where nobody would keep a fanotify group and
   * `allowUnsafe` is not said. Without a keeper cachefiles loses mounts with the daemon, no bytes.
   * `graceMs`: how long a keeper waits for the next daemon.
   */
  static async start(
    parts: KeepingParts,
    of: { fds: HeldFds; allowUnsafe: boolean; graceMs: number },
  ): Promise<Keeping> {
    const { native, log, systemd, cacheDir } = parts;
    const { fds, allowUnsafe } = of;
    const graceSeconds = Math.ceil(of.graceMs / 1000);
    const socketPath = keeperSocket(cacheDir);
    let link: KeeperLink | undefined;
    try {
      // What is mounted whole needs nobody.
      if (Object.keys(fds).length === 0) return new Keeping(parts, fds, undefined);
      link = await keepWith({ native, socketPath, log, fds, graceSeconds });
    } catch (error) {
      const { message } = asDaemonError(error);
      if (fds.fanotify !== undefined && !allowUnsafe) {
        throw new DaemonError({ code: "fanotify_unsafe", detail: message }, { cause: error });
      }
      log.warn({}, `no keeper, so mounts end with this daemon: ${message}`);
    }
    for (const name of NAMES) {
      const fd = fds[name];
      if (fd !== undefined) await systemd.storeFd(storeName(name), fd).catch(told);
    }
    return new Keeping(parts, fds, link);

    function told(error: unknown): void {
      log.warn({}, `systemd's fd store cannot be used: ${asDaemonError(error).message}`);
    }
  }

  /** Somebody takes over what we leave. */
  get isKept(): boolean {
    return this.#link !== undefined;
  }

  objects(count: number): void {
    this.#link?.objects(count);
  }

  /** The daemon that follows takes all up. */
  handOver(): void {
    this.#link?.handOver();
  }

  /** Nobody needs it any more. Never rejects. */
  async end(): Promise<void> {
    await this.#link?.bye();
    for (const name of NAMES) {
      if (this.#fds[name] === undefined) continue;
      await this.#parts.systemd.dropStoredFd(storeName(name)).catch(() => undefined);
    }
  }
}

function storeName(name: HeldName): string {
  return `erofsd-${name}`;
}
