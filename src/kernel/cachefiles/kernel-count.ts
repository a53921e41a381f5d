// SPDX-License-Identifier: Apache-2.0
// How many objects the kernel itself counts: after a takeover a daemon knows only those that were
// opened again, and what is wholly cached never is.
// Source: fs/netfs/fscache_cache.c, fscache_caches_seq_show(); kernel-notes/cachefiles-crash-and-restore.md.

import { readFile } from "node:fs/promises";
import type { Clock } from "../../platform/clock.ts";

const PATH = "/proc/fs/fscache/caches";
const LOOK_EVERY_MS = 500;
const SETTLE_MS = 50;
const SETTLE_TRIES = 10;

/** Undefined when the kernel does not tell. */
export async function kernelObjectCount(): Promise<number | undefined> {
  const text = await readFile(PATH, "utf8").catch(() => undefined);
  return text === undefined ? undefined : parseCaches(text);
}

/** One line a cache: number (hexadecimal), references, volumes, objects, accesses, state, name. */
export function parseCaches(text: string): number {
  let objects = 0;
  for (const [, count] of text.matchAll(/^\s*[0-9a-f]+\s+\d+\s+\d+\s+(\d+)\s/gm)) {
    objects += Number(count);
  }
  return objects;
}

export interface KernelObjectsParts {
  readonly clock: Clock;
  /** Objects that the session has open. */
  readonly known: () => number;
  /** OPENs that are not answered: the kernel counts their objects already. */
  readonly opening: () => number;
  readonly onCount: (count: number) => void;
}

/**
 * How many objects are open at a device that another daemon bound: at first perhaps more than its
 * session knows, as many as the kernel counts; those are forgotten without a word.
 */
export class KernelObjects {
  readonly #parts: KernelObjectsParts;
  /** At least one until the kernel's own count is read. */
  #counted = 1;
  #cancel: (() => void) | undefined;
  #isStopped = false;

  constructor(parts: KernelObjectsParts) {
    this.#parts = parts;
    this.#look();
  }

  get count(): number {
    return Math.max(this.#parts.known(), this.#counted);
  }

  /** There are none but those the session knows, as the kernel counts at this moment. */
  async areAllKnown(): Promise<boolean> {
    await this.#countAgain();
    return this.#counted <= this.#parts.known() + this.#parts.opening();
  }

  async #countAgain(): Promise<void> {
    this.#counted = (await kernelObjectCount()) ?? 1;
  }

  /** Counts anew, and for a moment again while some are left: an unmount's end comes after it. */
  async settle(): Promise<void> {
    for (let tries = SETTLE_TRIES; tries > 0; tries -= 1) {
      await this.#countAgain();
      if (this.#counted === 0) return;
      await new Promise<void>((resolve) => {
        this.#parts.clock.after(SETTLE_MS, resolve);
      });
    }
  }

  stop(): void {
    this.#isStopped = true;
    this.#cancel?.();
  }

  #look(): void {
    const before = this.count;
    void this.#countAgain().then(() => {
      if (this.#isStopped) return;
      if (this.count !== before) this.#parts.onCount(this.count);
      this.#cancel = this.#parts.clock.after(LOOK_EVERY_MS, () => {
        this.#look();
      });
    });
  }
}
