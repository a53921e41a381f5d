// SPDX-License-Identifier: Apache-2.0
// A pool of the addon's threads with promises: the addon holds a bounded number of jobs, further
// ones wait here, first come first served.

import { constants } from "node:os";
import {
  type BindingPool,
  type JobResult,
  type MakePool,
  checked,
  fault,
} from "./native-binding.ts";

interface Job {
  readonly syscall: string;
  readonly submit: () => number;
  readonly resolve: (result: JobResult) => void;
  readonly reject: (error: unknown) => void;
}

export class JobQueue<Pool extends BindingPool> {
  readonly #pool: Pool;
  readonly #submitted = new Map<number, Job>();
  #waiting: Job[] = [];

  constructor(Pool: MakePool<Pool>, threads: number, queueMax: number) {
    this.#pool = new Pool(threads, queueMax, (batch) => {
      this.#finish(batch);
    });
    checked("pthread_create", this.#pool.start());
  }

  run(syscall: string, submit: (pool: Pool) => number): Promise<JobResult> {
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
