// SPDX-License-Identifier: Apache-2.0
// Small units are decoded in company: those that come in one turn of the event loop, and those that
// come while as many batches run as there are cores, go to a thread together. Files of an image
// are small, and the way to a thread and back costs more than their decoding.

import { constants } from "node:os";
import { DaemonError, asDaemonError } from "../errors.ts";
import type { DecodeJob, Native } from "../platform/native.ts";
import { MIB } from "../units.ts";

/** What one batch decodes at most, so that all cores get some. */
const BATCH_BYTES_MAX = MIB;
const BATCH_UNITS_MAX = 256;

interface Pending {
  readonly job: DecodeJob;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class DecodeBatches {
  readonly #native: Pick<Native, "decode" | "decodeMany">;
  readonly #batchesMax: number;
  #pending: Pending[] = [];
  #running = 0;
  #isScheduled = false;

  constructor(native: Pick<Native, "decode" | "decodeMany">, batchesMax: number) {
    this.#native = native;
    this.#batchesMax = batchesMax;
  }

  /** As Native.decode. */
  decode(job: DecodeJob): Promise<void> {
    // With a dictionary it is a slice of a deflate stream, and large.
    if (job.start !== undefined) return this.#native.decode(job);
    return new Promise((resolve, reject) => {
      this.#pending.push({ job, resolve, reject });
      if (this.#isScheduled) return;
      this.#isScheduled = true;
      queueMicrotask(() => {
        this.#isScheduled = false;
        this.#start();
      });
    });
  }

  #start(): void {
    while (this.#pending.length > 0 && this.#running < this.#batchesMax) {
      const batch = this.#pending.splice(0, this.#batchLength());
      this.#running += 1;
      // #run never rejects: it settles the jobs.
      void this.#run(batch).finally(() => {
        this.#running -= 1;
        this.#start();
      });
    }
  }

  /** How many of the first pending jobs have the same memory and fit into one batch. */
  #batchLength(): number {
    const first = this.#pending[0]?.job;
    let bytes = 0;
    let length = 0;
    for (const { job } of this.#pending) {
      bytes += job.decodedBytes;
      const isOther = job.target !== first?.target || job.source.buffer !== first.source.buffer;
      if (isOther || length >= BATCH_UNITS_MAX) break;
      if (length > 0 && bytes > BATCH_BYTES_MAX) break;
      length += 1;
    }
    return length;
  }

  async #run(batch: readonly Pending[]): Promise<void> {
    try {
      const [only] = batch;
      if (only !== undefined && batch.length === 1) {
        await this.#native.decode(only.job);
        only.resolve();
        return;
      }
      const results = await this.#native.decodeMany(together(batch.map(({ job }) => job)));
      for (const [index, { resolve, reject }] of batch.entries()) {
        const errno = -(results[index] ?? -constants.errno.EIO);
        if (errno === 0) resolve();
        else reject(failure(errno));
      }
    } catch (error) {
      for (const { reject } of batch) reject(asDaemonError(error));
    }
  }
}

/** Their sources are pieces of one buffer: the stretch of it that holds them all is the batch's. */
function together(jobs: readonly DecodeJob[]): Parameters<Native["decodeMany"]>[0] {
  const starts = jobs.map(({ source, sourceOffset }) => source.byteOffset + sourceOffset);
  const ends = jobs.map(({ sourceLength }, index) => (starts[index] ?? 0) + sourceLength);
  const from = Math.min(...starts);
  const [first] = jobs;
  if (first === undefined) throw new Error("a batch has jobs");
  return {
    source: new Uint8Array(first.source.buffer, from, Math.max(...ends) - from),
    target: first.target,
    units: jobs.map(({ codec, sourceLength, decodedBytes, pieces }, index) => ({
      codec,
      sourceOffset: (starts[index] ?? 0) - from,
      sourceLength,
      decodedBytes,
      pieces,
    })),
  };
}

function failure(errno: number): DaemonError {
  const found = Object.entries(constants.errno).find(([, number]) => number === errno);
  const errnoName = found?.[0] ?? `errno ${errno}`;
  return new DaemonError({
    code: "syscall_failed",
    syscall: "decode",
    errno,
    errnoName,
    detail: "",
  });
}
