// SPDX-License-Identifier: Apache-2.0
// The daemon's side of erofsd-keeper (native/keeper/keeper.c), which holds copies of the fds that
// tie a daemon to the kernel, so that mounts outlive it. Order at a start: takeFromKeeper; without
// an fd, open the door; then keepWith. A keeper that is lost later is replaced.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdir, unlink } from "node:fs/promises";
import { type Socket, connect } from "node:net";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DaemonError, asDaemonError } from "../errors.ts";
import { errnoNameOf } from "../platform/errno-name.ts";
import type { Log } from "../platform/log.ts";
import { fault } from "../platform/native-binding.ts";
import type { Native } from "../platform/native.ts";
import { findPackageRoot } from "../platform/package-root.ts";

const START_LIMIT_MS = 5000;
const TALK_LIMIT_MS = 5000;
const BYE_LIMIT_MS = 1000;
const ANSWER_BYTES_MAX = 64;
/** A keeper that is killed again and again must not cost all our time. */
const REPLACE_AFTER_MS = 1000;
const PLACES = [
  "native/build/Release/erofsd-keeper",
  `native/prebuilds/linux-${process.arch}/erofsd-keeper`,
];

/** A bound /dev/cachefiles; or a fanotify group and the journal of its events. */
export type HeldName = "cachefiles" | "fanotify" | "journal";
/** The keeper gets copies of them. */
export type HeldFds = { readonly [name in HeldName]?: number };

/** The connection that makes this process the daemon in the keeper's eyes. */
export interface KeeperLink {
  /** How many objects the kernel has open. None and the first are told at once, others at most once per turn of the event loop. */
  objects(count: number): void;
  /** An orderly stop, nothing is open: the keeper lets all go. Settles when it has, or after a second. Never rejects. */
  bye(): Promise<void>;
  /** Another daemon follows: it will say so to the keeper, and this link ends then. */
  handOver(): void;
  /** Lets go without a word, as a death would. */
  close(): void;
}

export interface KeeperOptions {
  readonly native: Pick<Native, "receiveWithFd">;
  readonly socketPath: string;
  readonly log: Log;
  readonly fds: HeldFds;
  readonly graceSeconds?: number;
}

/** Where the keeper of a cache directory listens. */
export function keeperSocket(cacheDir: string): string {
  return join(cacheDir, "state", "keeper", "keeper.sock");
}

/**
 * Has `fds` kept: by the keeper that runs, or by a new one; also by another one, should it be
 * lost. Fault: syscall_failed.
 */
export async function keepWith(options: KeeperOptions): Promise<KeeperLink> {
  const { log } = options;
  let isWanted = true;
  let count = 0;
  let link = await anyKeeper(options, onLost);

  function onLost(cause: string | undefined): void {
    log.warn({ cause }, "the keeper is gone: until there is another, mounts end with this daemon");
    setTimeout(() => {
      void replace();
    }, REPLACE_AFTER_MS).unref();
  }
  async function replace(): Promise<void> {
    if (!isWanted) return;
    try {
      const found = await anyKeeper(options, onLost);
      if (!isWanted) {
        found.close();
        return;
      }
      link = found;
      link.objects(count);
      log.info({}, "another keeper is there");
    } catch (error) {
      onLost(asDaemonError(error).message);
    }
  }
  return {
    objects(next) {
      count = next;
      link.objects(next);
    },
    bye() {
      isWanted = false;
      return link.bye();
    },
    handOver() {
      isWanted = false;
      link.handOver();
    },
    close() {
      isWanted = false;
      link.close();
    },
  };
}

type OnLost = (cause: string | undefined) => void;

async function anyKeeper(options: KeeperOptions, onLost: OnLost): Promise<KeeperLink> {
  await mkdir(dirname(options.socketPath), { recursive: true, mode: 0o700 });
  try {
    return await watchKeeper(options, onLost);
  } catch (error) {
    if (!isNobodyThere(error)) throw error;
    await unlink(options.socketPath).catch(() => undefined);
    return await startKeeper(options, onLost);
  }
}

/** Fault: syscall_failed ("spawn", or what the talk with it failed with). */
export async function startKeeper(options: KeeperOptions, onLost: OnLost): Promise<KeeperLink> {
  const { socketPath, graceSeconds = 30 } = options;
  const path = await findKeeper();
  const times = ["--grace-seconds", String(graceSeconds), "--daemon-pid", String(process.pid)];
  const child = spawn(path, ["--socket", socketPath].concat(times), {
    detached: true,
    // It outlives us, and has no use for credentials in the environment.
    env: {},
    stdio: ["ignore", "pipe", "ignore"],
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
  return await watchKeeper(options, onLost);
}

/**
 * What the keeper that listens there holds; the caller owns the fds. Empty when there is no keeper;
 * a socket that a dead one left is removed. Fault: syscall_failed.
 */
export async function takeFromKeeper(options: {
  readonly native: Pick<Native, "receiveWithFd">;
  readonly socketPath: string;
}): Promise<HeldFds> {
  const held: Partial<Record<HeldName, number>> = {};
  for (const name of ["cachefiles", "fanotify", "journal"] as const) {
    try {
      const { fd } = await talk(options, `take ${name}`);
      if (fd !== undefined) held[name] = fd;
    } catch (error) {
      if (!isNobodyThere(error)) throw error;
      if (errnoNameOf(error) === "ECONNREFUSED") await unlink(options.socketPath);
      break;
    }
  }
  return held;
}

/** Process ids of the daemon that a keeper knows and of the supervisor that it is; 0 for none. */
export interface KeptBy {
  readonly daemon: number;
  readonly supervisor: number;
}

/** Undefined without a keeper. Fault: syscall_failed. */
export async function askKeeper(options: {
  readonly native: Pick<Native, "receiveWithFd">;
  readonly socketPath: string;
}): Promise<KeptBy | undefined> {
  try {
    const { bytes } = await talk(options, "who");
    const [daemon = 0, supervisor = 0] = String(bytes).split(" ").map(Number);
    return { daemon, supervisor };
  } catch (error) {
    if (isNobodyThere(error)) return undefined;
    throw error;
  }
}

/** All that the keeper holds is held by another one: it ends. Fault: syscall_failed. */
export async function endKeeper(options: {
  readonly native: Pick<Native, "receiveWithFd">;
  readonly socketPath: string;
}): Promise<void> {
  await talk(options, "yield");
}

/** Gives it `fds`, and tells it that this process is the daemon from now on. Fault: syscall_failed. */
export async function watchKeeper(options: KeeperOptions, onLost: OnLost): Promise<KeeperLink> {
  const { socketPath, fds } = options;
  for (const name of ["cachefiles", "fanotify", "journal"] as const) {
    if (fds[name] === undefined) continue;
    const { bytes } = await talk(options, `hold ${name}`, fds[name]);
    if (String(bytes) !== "ok\n") throw fault("hold", constants.errno.EPROTO, socketPath);
  }
  const socket = connect(socketPath);
  try {
    await once(socket, "connect");
  } catch (error) {
    throw fault("connect", errnoOf(error), socketPath);
  }
  socket.unref();
  socket.resume();
  socket.write("watch\n");
  return new WatchedKeeper(socket, onLost);
}

async function talk(
  { native, socketPath }: Pick<KeeperOptions, "native" | "socketPath">,
  line: string,
  fd?: number,
): Promise<{ bytes: Buffer; fd: number | undefined }> {
  const request = Buffer.from(`${line}\n`);
  const answer = await native.receiveWithFd(
    socketPath,
    request,
    TALK_LIMIT_MS,
    ANSWER_BYTES_MAX,
    fd,
  );
  return { bytes: Buffer.from(answer.bytes), fd: answer.fd };
}

function isNobodyThere(error: unknown): boolean {
  return ["ENOENT", "ENOTDIR", "ECONNREFUSED"].includes(errnoNameOf(error) ?? "");
}

class WatchedKeeper implements KeeperLink {
  readonly #socket: Socket;
  #expected = false;
  #count = 0;
  /** Nothing yet: the keeper may remember the daemon before us. */
  #told = -1;
  #telling: NodeJS.Immediate | undefined;

  constructor(socket: Socket, onLost: OnLost) {
    this.#socket = socket;
    let cause: Error | undefined;
    socket.on("error", (error) => {
      cause = error;
    });
    socket.on("close", () => {
      if (this.#expected) return;
      this.#expected = true;
      onLost(cause?.message);
    });
  }

  objects(count: number): void {
    this.#count = count;
    if (this.#told <= 0 || count === 0) {
      this.#tell();
      return;
    }
    this.#telling ??= setImmediate(() => {
      this.#tell();
    });
  }

  async bye(): Promise<void> {
    if (this.#expected) return;
    clearImmediate(this.#telling);
    this.#expected = true;
    const signal = AbortSignal.timeout(BYE_LIMIT_MS);
    const closed = once(this.#socket, "close", { signal }).catch(() => undefined);
    // Nothing else may be left that keeps the process until the answer.
    this.#socket.ref();
    this.#socket.write("bye\n");
    await closed;
    this.#socket.destroy();
  }

  handOver(): void {
    this.#tell();
    this.#expected = true;
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

/** The program. Fault: syscall_failed when it is not there. */
export async function findKeeper(): Promise<string> {
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
