// SPDX-License-Identifier: Apache-2.0
// What a service tells systemd and gets from it: sd_notify(3), sd_listen_fds(3), the fd store and
// the watchdog, without libsystemd. Where no service manager started us, everything here does
// nothing: telling is harmless, no fds came, no watchdog waits.

import { DaemonError } from "../errors.ts";
import { systemClock } from "./clock.ts";
import type { Native } from "./native.ts";

/** The first fd that systemd passes (SD_LISTEN_FDS_START). */
const LISTEN_FDS_START = 3;
/** As sd_listen_fds_with_names(3): of a socket unit without FileDescriptorName=. */
const UNNAMED = "unknown";
const FD_NAME = /^[\x20-\x39\x3b-\x7e]{1,255}$/;
/** While systemd's queue is full. */
const RETRY_MS = 10;
const RETRY_LIMIT_MS = 5000;
const OUR_VARIABLES = [
  "NOTIFY_SOCKET",
  "LISTEN_PID",
  "LISTEN_FDS",
  "LISTEN_FDNAMES",
  "LISTEN_PIDFDID",
  "WATCHDOG_PID",
  "WATCHDOG_USEC",
];

/** `READY`, `STATUS`, `STOPPING`, `RELOADING`, `WATCHDOG`, `FDSTORE` and so on: sd_notify(3). */
export type NotifyFields = Readonly<Record<string, string | number>>;

type Calls = Pick<Native, "sendDatagram" | "closeOnExec">;
type Environment = Record<string, string | undefined>;

export class Systemd {
  readonly #native: Calls;
  readonly #address: Uint8Array | undefined;
  readonly #watchdogUsec: number | undefined;
  #listenFds: ReadonlyMap<string, readonly number[]>;
  /** Messages arrive in the order in which they were given. */
  #last: Promise<unknown> = Promise.resolve();

  /**
   * Takes what systemd left in `environment` out of it, so that no child believes it is meant.
   * Fault: syscall_failed, when an fd that was promised is not there.
   */
  constructor(native: Calls, environment: Environment = process.env) {
    this.#native = native;
    this.#address = addressOf(environment["NOTIFY_SOCKET"]);
    this.#watchdogUsec = watchdogOf(environment);
    this.#listenFds = listenFdsOf(environment, native);
    for (const name of OUR_VARIABLES) Reflect.deleteProperty(environment, name);
  }

  /** False when there is nobody to notify. */
  get isListening(): boolean {
    return this.#address !== undefined;
  }

  /**
   * Sends one message, `fd` with it, which stays the caller's and open until it settles. RELOADING
   * gets its MONOTONIC_USEC. Faults: syscall_failed (EAGAIN when systemd takes nothing for 5 s).
   */
  async notify(fields: NotifyFields, fd?: number): Promise<void> {
    const address = this.#address;
    if (address === undefined) return;
    const bytes = messageOf(fields);
    const sent = this.#last.then(() => this.#send(address, bytes, fd));
    this.#last = sent.catch(() => undefined);
    await sent;
  }

  /**
   * Gives systemd a duplicate of `fd`, which comes back under `name` (from takeListenFds) when the
   * service is started again. More than one may have a name. Never polled: it stays until dropped.
   */
  storeFd(name: string, fd: number): Promise<void> {
    return this.notify({ FDSTORE: 1, FDNAME: fdName(name), FDPOLL: 0 }, fd);
  }

  /** Systemd closes all fds that it stores under `name`. */
  dropStoredFd(name: string): Promise<void> {
    return this.notify({ FDSTOREREMOVE: 1, FDNAME: fdName(name) });
  }

  /**
   * The fds that systemd passed, by name: of socket units (FileDescriptorName=) and from the fd
   * store. FD_CLOEXEC is set. They are the caller's now: later calls give none.
   */
  takeListenFds(): ReadonlyMap<string, readonly number[]> {
    const fds = this.#listenFds;
    this.#listenFds = new Map();
    return fds;
  }

  /** What another daemon of ours, started by us to take our place, is to find in its environment. */
  forSuccessor(): Readonly<Record<string, string>> {
    const address = this.#address;
    if (address === undefined) return {};
    const [first, ...rest] = address;
    const socket = Buffer.from(first === 0 ? ["@".charCodeAt(0), ...rest] : address).toString();
    const usec = this.#watchdogUsec;
    return { NOTIFY_SOCKET: socket, ...(usec === undefined ? {} : { WATCHDOG_USEC: `${usec}` }) };
  }

  /** How long systemd waits between two WATCHDOG=1, in microseconds; undefined when it does not. */
  watchdogUsec(): number | undefined {
    return this.#watchdogUsec;
  }

  async #send(address: Uint8Array, bytes: Uint8Array, fd: number | undefined): Promise<void> {
    const untilMs = systemClock.nowMs() + RETRY_LIMIT_MS;
    for (;;) {
      try {
        this.#native.sendDatagram(address, bytes, fd);
        return;
      } catch (error) {
        if (!isFull(error) || systemClock.nowMs() >= untilMs) throw error;
      }
      await new Promise<void>((resolve) => {
        systemClock.after(RETRY_MS, resolve);
      });
    }
  }
}

/** sun_path of $NOTIFY_SOCKET: a path, or @ and an abstract name. */
function addressOf(socket: string | undefined): Uint8Array | undefined {
  if (socket === undefined || !/^[/@]./.test(socket)) return undefined;
  const address = Buffer.from(socket);
  if (address[0] === "@".charCodeAt(0)) address[0] = 0;
  return address;
}

function messageOf(fields: NotifyFields): Uint8Array {
  const lines = Object.entries(fields).map(
    ([name, value]) => `${name}=${String(value).replaceAll(/[\n\0]/g, " ")}`,
  );
  // CLOCK_MONOTONIC, as systemd asks.
  if ("RELOADING" in fields) lines.push(`MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  return Buffer.from(lines.join("\n"));
}

function fdName(name: string): string {
  if (!FD_NAME.test(name)) throw new RangeError(`"${name}" cannot name a stored fd`);
  return name;
}

function watchdogOf(environment: Environment): number | undefined {
  if (!isForUs(environment["WATCHDOG_PID"] ?? String(process.pid))) return undefined;
  return count(environment["WATCHDOG_USEC"], Number.MAX_SAFE_INTEGER);
}

function listenFdsOf(environment: Environment, native: Calls): Map<string, number[]> {
  const fds = new Map<string, number[]>();
  if (!isForUs(environment["LISTEN_PID"])) return fds;
  const names = environment["LISTEN_FDNAMES"]?.split(":") ?? [];
  const total = count(environment["LISTEN_FDS"], 4096) ?? 0;
  for (let index = 0; index < total; index += 1) {
    const fd = LISTEN_FDS_START + index;
    native.closeOnExec(fd);
    const name = names[index] ?? UNNAMED;
    fds.set(name, [...(fds.get(name) ?? []), fd]);
  }
  return fds;
}

function isForUs(pid: string | undefined): boolean {
  return pid === String(process.pid);
}

function count(text: string | undefined, max: number): number | undefined {
  if (text === undefined || !/^[1-9]\d*$/.test(text)) return undefined;
  const value = Number(text);
  return value <= max ? value : undefined;
}

function isFull(error: unknown): boolean {
  return (
    error instanceof DaemonError &&
    error.fault.code === "syscall_failed" &&
    error.fault.errnoName === "EAGAIN"
  );
}
