// SPDX-License-Identifier: Apache-2.0
// The addon with types: the only importer of native/. A call that fails throws (or rejects) a
// syscall_failed fault with the call's name and errno; a wrong argument is a TypeError or a
// RangeError. Bulk writes and seeks run on the addon's own threads, a bounded number at a time;
// further ones wait here, first come first served.

import { createRequire } from "node:module";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { DaemonError } from "../errors.ts";
import { BLOCK_BYTES } from "../units.ts";
import { findPackageRoot } from "./package-root.ts";

/** Jobs the addon holds at once, running or queued; more wait in the FIFO below. */
const QUEUE_MAX = 256;

export interface NativeOptions {
  readonly writerThreads: number;
  readonly queueMax?: number;
}

/** Readiness of one fd, which it does not own: close the watcher before the fd. */
export interface FdWatcher {
  /** Idempotent; `onReady` is not called any more. */
  close(): void;
}

export interface Native {
  /** open(2), always with O_CLOEXEC. Returns the fd, which the caller owns. */
  open(path: string, flags: number): number;
  close(fd: number): void;
  /** One write(2): one cachefiles command. Returns the count. */
  write(fd: number, bytes: Uint8Array): number;
  /**
   * One read(2) of a cachefiles message; 0 when nothing is pending. The fd inside an OPEN
   * message has FD_CLOEXEC set when this returns.
   */
  readMessage(fd: number, buffer: Uint8Array): number;
  readComplete(fd: number, msgId: number): void;
  /** Calls `onReady` while `fd` is readable (level-triggered), with libuv's events or -errno. */
  watch(fd: number, onReady: (events: number) => void): FdWatcher;
  /**
   * Writes all of it. Address, length and file offset are multiples of 4096, else it rejects
   * with a RangeError and writes nothing. `bytes` must stay unchanged until it settles.
   */
  pwriteAligned(
    fd: number,
    bytes: Uint8Array,
    range: { bytesOffset: number; length: number; fileOffset: number },
  ): Promise<void>;
  /** lseek(2); `whence` as in C (0 SET, 1 CUR, 2 END, 3 DATA, 4 HOLE). */
  seek(fd: number, to: { offset: number; whence: number }): Promise<number>;
  /**
   * The data within [from, sizeBytes): start, end, start, end, ... A full answer (2 * extentsMax
   * numbers) may not be all: ask again from its last end.
   */
  dataExtents(
    fd: number,
    within: { from: number; sizeBytes: number; extentsMax: number },
  ): Promise<Float64Array>;
  /** Zeroed memory that begins at a page boundary. */
  allocateAligned(bytes: number): Uint8Array;
  /** Sizes, offsets and numbers of the kernel's ABI as the C compiler sees them. */
  layout(): Record<string, number | string>;
  /** Running jobs end, waiting ones reject with ECANCELED; settles when the threads are gone. */
  destroy(): Promise<void>;
}

type JobResult = number | Float64Array;

/** What native/src exports: a result >= 0, or -errno. */
interface Binding {
  open(path: string, flags: number): number;
  close(fd: number): number;
  write(fd: number, bytes: Uint8Array): number;
  readMessage(fd: number, buffer: Uint8Array): number;
  readComplete(fd: number, msgId: number): number;
  allocateAligned(bytes: number, external: boolean): Uint8Array;
  layout(): Record<string, number | string>;
  FdWatcher: new (
    fd: number,
    onReady: (events: number) => void,
  ) => { start(): number; stop(): unknown; close(): unknown };
  WriterPool: new (
    threads: number,
    queueMax: number,
    onDone: (batch: readonly JobResult[]) => void,
  ) => BindingPool;
}

/** Each job function gives the job's number or -errno; ends come as [number, result, ...]. */
interface BindingPool {
  start(): number;
  pwrite(
    fd: number,
    bytes: Uint8Array,
    bytesOffset: number,
    length: number,
    fileOffset: number,
    granule: number,
  ): number;
  seek(fd: number, offset: number, whence: number): number;
  extents(fd: number, from: number, sizeBytes: number, extentsMax: number): number;
  destroy(): number;
}

interface Job {
  readonly syscall: string;
  readonly submit: () => number;
  readonly resolve: (result: JobResult) => void;
  readonly reject: (error: unknown) => void;
}

/** Loads the addon and starts its writer threads. Fault: addon_missing. */
export function loadNative(options: NativeOptions): Native {
  const binding = loadBinding();
  const pool = new JobQueue(binding, options.writerThreads, options.queueMax ?? QUEUE_MAX);
  return {
    open: (path, flags) => checked("open", binding.open(path, flags), path),
    close: (fd) => void checked("close", binding.close(fd)),
    write: (fd, bytes) => checked("write", binding.write(fd, bytes)),
    readMessage: (fd, buffer) => checked("read", binding.readMessage(fd, buffer)),
    readComplete: (fd, msgId) => void checked("ioctl", binding.readComplete(fd, msgId)),
    watch(fd, onReady) {
      const watcher = new binding.FdWatcher(fd, onReady);
      checked("epoll_ctl", watcher.start());
      return { close: () => void watcher.close() };
    },
    async pwriteAligned(fd, bytes, { bytesOffset, length, fileOffset }) {
      await pool.run("pwrite", (jobs) =>
        jobs.pwrite(fd, bytes, bytesOffset, length, fileOffset, BLOCK_BYTES),
      );
    },
    seek: async (fd, { offset, whence }) =>
      Number(await pool.run("lseek", (jobs) => jobs.seek(fd, offset, whence))),
    async dataExtents(fd, { from, sizeBytes, extentsMax }) {
      const found = await pool.run("lseek", (jobs) =>
        jobs.extents(fd, from, sizeBytes, extentsMax),
      );
      return typeof found === "number" ? new Float64Array() : found;
    },
    allocateAligned: (bytes) => binding.allocateAligned(bytes, true),
    layout: () => binding.layout(),
    destroy: () => pool.destroy(),
  };
}

class JobQueue {
  readonly #pool: BindingPool;
  readonly #submitted = new Map<number, Job>();
  #waiting: Job[] = [];

  constructor(binding: Binding, threads: number, queueMax: number) {
    this.#pool = new binding.WriterPool(threads, queueMax, (batch) => {
      this.#finish(batch);
    });
    checked("pthread_create", this.#pool.start());
  }

  run(syscall: string, submit: (pool: BindingPool) => number): Promise<JobResult> {
    return new Promise((resolve, reject) => {
      const job = { syscall, submit: () => submit(this.#pool), resolve, reject };
      if (this.#waiting.length > 0 || !this.#submit(job)) this.#waiting.push(job);
    });
  }

  async destroy(): Promise<void> {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const job of waiting) job.reject(fault(job.syscall, constants.errno.ECANCELED));
    await new Promise<JobResult>((resolve, reject) => {
      const submit = (): number => this.#pool.destroy();
      this.#submit({ syscall: "pthread_join", submit, resolve, reject });
    });
  }

  /** False when the addon's queue is full. */
  #submit(job: Job): boolean {
    let id: number;
    try {
      id = job.submit();
    } catch (error) {
      job.reject(error);
      return true;
    }
    if (id === -constants.errno.EAGAIN) return false;
    if (id < 0) job.reject(fault(job.syscall, -id));
    else this.#submitted.set(id, job);
    return true;
  }

  #finish(batch: readonly JobResult[]): void {
    for (let i = 0; i + 1 < batch.length; i += 2) {
      const id = Number(batch[i]);
      const result = batch[i + 1] ?? 0;
      const job = this.#submitted.get(id);
      this.#submitted.delete(id);
      if (typeof result === "number" && result < 0) job?.reject(fault(job.syscall, -result));
      else job?.resolve(result);
    }
    let next = this.#waiting[0];
    while (next !== undefined && this.#submit(next)) {
      this.#waiting.shift();
      next = this.#waiting[0];
    }
  }
}

function checked(syscall: string, result: number, detail = ""): number {
  if (result < 0) throw fault(syscall, -result, detail);
  return result;
}

function fault(syscall: string, errno: number, detail = ""): DaemonError {
  const errnoName = errnoNames.get(errno) ?? `errno ${errno}`;
  return new DaemonError({ code: "syscall_failed", syscall, errno, errnoName, detail });
}

const errnoNames = new Map(Object.entries(constants.errno).map(([name, errno]) => [errno, name]));

function loadBinding(): Binding {
  const directory = fileURLToPath(new URL("native/", findPackageRoot()));
  try {
    const load: unknown = createRequire(import.meta.url)("node-gyp-build");
    if (!isLoader(load)) throw new Error("node-gyp-build is not a function");
    return load(directory);
  } catch (error) {
    const reason = error instanceof Error ? error.message.split("\n")[0] : String(error);
    const detail = `the native addon in ${directory} cannot be loaded: ${reason}`;
    throw new DaemonError({ code: "addon_missing", detail }, { cause: error });
  }
}

/** The addon is ours, and there is a test for each function of it: what is loaded is a Binding. */
function isLoader(value: unknown): value is (directory: string) => Binding {
  return typeof value === "function";
}
