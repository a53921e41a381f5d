// SPDX-License-Identifier: Apache-2.0
// The addon as it is, without src/platform/native.ts between: what each function of native/src
// takes and gives, -errno included. For the tests of this folder only.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

export type JobResult = number | Float64Array;

export interface RawWatcher {
  start(): number;
  stop(): void;
  close(): void;
}

export interface RawPool {
  start(): number;
  pwrite(...args: readonly unknown[]): number;
  seek(...args: readonly unknown[]): number;
  extents(...args: readonly unknown[]): number;
  destroy(): number;
}

export interface RawDecoderPool {
  start(): number;
  decode(...args: readonly unknown[]): number;
  destroy(): number;
}

export interface Addon {
  open(...args: readonly unknown[]): number;
  close(...args: readonly unknown[]): number;
  write(...args: readonly unknown[]): number;
  readMessage(...args: readonly unknown[]): number;
  readComplete(...args: readonly unknown[]): number;
  fanotifyInit(...args: readonly unknown[]): number;
  fanotifyMark(...args: readonly unknown[]): number;
  readEvents(...args: readonly unknown[]): number;
  isOpenElsewhere(...args: readonly unknown[]): number;
  allocateAligned(...args: readonly unknown[]): Uint8Array;
  setAttribute(...args: readonly unknown[]): Promise<number>;
  getAttribute(...args: readonly unknown[]): Promise<readonly [number, Uint8Array]>;
  renameNew(...args: readonly unknown[]): Promise<number>;
  isAligned(...args: readonly unknown[]): boolean;
  layout(): Record<string, number | string>;
  FdWatcher: new (...args: readonly unknown[]) => RawWatcher;
  WriterPool: new (...args: readonly unknown[]) => RawPool;
  DecoderPool: new (...args: readonly unknown[]) => RawDecoderPool;
}

/** EROFSD_NATIVE_DIR names another build of the addon (native/asan.sh). */
export const nativeDirectory =
  process.env["EROFSD_NATIVE_DIR"] ?? fileURLToPath(new URL("../../../native/", import.meta.url));

function isLoader(value: unknown): value is (directory: string) => Addon {
  return typeof value === "function";
}

const load: unknown = createRequire(import.meta.url)("node-gyp-build");
if (!isLoader(load)) throw new Error("node-gyp-build is not a function");
export const addon = load(nativeDirectory);

/** A started pool whose ends can be awaited by job number. */
export class AwaitablePool<Raw extends { start(): number }> {
  readonly raw: Raw;
  readonly ends: number[] = [];
  readonly #waiting = new Map<number, (result: JobResult) => void>();

  constructor(
    Pool: new (...args: readonly unknown[]) => Raw,
    { threads, queueMax }: { threads: number; queueMax: number },
  ) {
    this.raw = new Pool(threads, queueMax, (batch: readonly JobResult[]) => {
      for (let i = 0; i + 1 < batch.length; i += 2) {
        const job = Number(batch[i]);
        this.ends.push(job);
        this.#waiting.get(job)?.(batch[i + 1] ?? Number.NaN);
      }
    });
    const started = this.raw.start();
    if (started !== 0) throw new Error(`the pool does not start: ${started}`);
  }

  /** The end of a job; a job that was refused ends at once with its -errno. */
  end(job: number): Promise<JobResult> {
    if (job < 0) return Promise.resolve(job);
    return new Promise((resolve) => {
      this.#waiting.set(job, resolve);
    });
  }
}
