// SPDX-License-Identifier: Apache-2.0
// The daemon's side of erofsd-keeper (native/keeper/keeper.c), which holds a copy of the device fd
// so that mounts outlive the daemon. Order at a start: takeFromKeeper; with an fd, watchKeeper,
// without one, open the device and startKeeper. A keeper that is lost later costs only the
// survival of the mounts, so it is logged and nothing else.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, unlink } from "node:fs/promises";
import { type Socket, connect } from "node:net";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { DaemonError } from "../../errors.ts";
import type { Log } from "../../platform/log.ts";
import { fault } from "../../platform/native-binding.ts";
import type { Native } from "../../platform/native.ts";
import { findPackageRoot } from "../../platform/package-root.ts";

const START_LIMIT_MS = 5000;
const TAKE_LIMIT_MS = 5000;
const BYE_LIMIT_MS = 1000;
const ANSWER_BYTES_MAX = 64;
const PLACES = [
  "native/build/Release/erofsd-keeper",
  `native/prebuilds/linux-${process.arch}/erofsd-keeper`,
];

/** The connection that makes this process the daemon in the keeper's eyes. */
export interface KeeperLink {
  /** How many objects the kernel has open. Written at most once per turn of the event loop. */
  objects(count: number): void;
  /** An orderly stop: the keeper ends. Settles when it has, or after a second. Never rejects. */
  bye(): Promise<void>;
  /** Lets go without a word, as a death would. */
  close(): void;
}

export interface KeeperOptions {
  readonly socketPath: string;
  readonly log: Log;
}

/**
 * Starts a keeper with a copy of `deviceFd` and watches it.
 * Fault: syscall_failed ("spawn", or "connect" to its socket).
 */
export async function startKeeper(
  options: KeeperOptions & {
    readonly deviceFd: number;
    readonly graceSeconds?: number;
  },
): Promise<KeeperLink> {
  const { deviceFd, socketPath, graceSeconds = 30 } = options;
  const path = await findKeeper();
  // The child's fd 3 is the copy it holds.
  const place = ["--socket", socketPath, "--device-fd", "3"];
  const times = ["--grace-seconds", String(graceSeconds), "--daemon-pid", String(process.pid)];
  const child = spawn(path, place.concat(times), {
    detached: true,
    stdio: ["ignore", "pipe", "ignore", deviceFd],
  });
  child.unref();
  try {
    const signal = AbortSignal.timeout(START_LIMIT_MS);
    // An end without "ready" closes the pipe too; "error" is thrown by once().
    const ended = once(child, "exit", { signal }).then(() => "ended");
    const ready = once(child.stdout ?? child, "data", { signal }).then(String);
    ended.catch(() => undefined);
    ready.catch(() => undefined);
    const first = await Promise.race([ready, ended]);
    if (first !== "ready\n") throw fault("spawn", constants.errno.ECHILD, path);
  } catch (error) {
    child.kill();
    if (error instanceof DaemonError) throw error;
    throw fault("spawn", errnoOf(error), path);
  } finally {
    child.stdout?.destroy();
  }
  return await watchKeeper(options);
}

/**
 * The device fd of the keeper that listens there; the caller owns it. Undefined when there is no
 * keeper; a socket that a dead one left is removed. Fault: syscall_failed.
 */
export async function takeFromKeeper(options: {
  readonly native: Pick<Native, "receiveWithFd">;
  readonly socketPath: string;
}): Promise<number | undefined> {
  const { native, socketPath } = options;
  try {
    const request = Buffer.from("take\n");
    const answer = await native.receiveWithFd(socketPath, request, TAKE_LIMIT_MS, ANSWER_BYTES_MAX);
    return answer.fd;
  } catch (error) {
    const name =
      error instanceof DaemonError && error.fault.code === "syscall_failed"
        ? error.fault.errnoName
        : undefined;
    if (name === "ENOENT") return undefined;
    if (name !== "ECONNREFUSED") throw error;
    await unlink(socketPath);
    return undefined;
  }
}

/** Tells the keeper that this process is the daemon from now on. Fault: syscall_failed. */
export async function watchKeeper({ socketPath, log }: KeeperOptions): Promise<KeeperLink> {
  const socket = connect(socketPath);
  try {
    await once(socket, "connect");
  } catch (error) {
    throw fault("connect", errnoOf(error), socketPath);
  }
  socket.unref();
  socket.resume();
  socket.write("watch\n");
  return new WatchedKeeper(socket, log);
}

class WatchedKeeper implements KeeperLink {
  readonly #socket: Socket;
  #expected = false;
  #count = 0;
  #told = 0;
  #telling: NodeJS.Immediate | undefined;

  constructor(socket: Socket, log: Log) {
    this.#socket = socket;
    let cause: Error | undefined;
    socket.on("error", (error) => {
      cause = error;
    });
    socket.on("close", () => {
      if (this.#expected) return;
      this.#expected = true;
      log.warn({ cause: cause?.message }, "the keeper is gone: mounts end with this daemon");
    });
  }

  objects(count: number): void {
    this.#count = count;
    this.#telling ??= setImmediate(() => {
      this.#tell();
    });
  }

  async bye(): Promise<void> {
    if (this.#expected) return;
    this.#tell();
    this.#expected = true;
    const signal = AbortSignal.timeout(BYE_LIMIT_MS);
    const closed = once(this.#socket, "close", { signal }).catch(() => undefined);
    this.#socket.write("bye\n");
    await closed;
    this.#socket.destroy();
  }

  close(): void {
    this.#expected = true;
    clearImmediate(this.#telling);
    this.#socket.destroy();
  }

  #tell(): void {
    clearImmediate(this.#telling);
    this.#telling = undefined;
    if (this.#count === this.#told || this.#expected) return;
    this.#told = this.#count;
    this.#socket.write(`objects ${this.#count}\n`);
  }
}

async function findKeeper(): Promise<string> {
  for (const place of PLACES) {
    const path = fileURLToPath(new URL(place, findPackageRoot()));
    const there = await access(path).then(
      () => true,
      () => false,
    );
    if (there) return path;
  }
  throw fault("spawn", constants.errno.ENOENT, "erofsd-keeper: run `npm rebuild`");
}

/** Of an error of Node's own calls, whose errno is negative; an abort is the time limit. */
function errnoOf(error: unknown): number {
  if (error instanceof Error && error.name === "AbortError") return constants.errno.ETIMEDOUT;
  const errno: unknown = error instanceof Error && "errno" in error ? error.errno : undefined;
  return typeof errno === "number" ? -errno : constants.errno.EIO;
}
