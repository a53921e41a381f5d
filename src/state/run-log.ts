// SPDX-License-Identifier: Apache-2.0
// How often the daemon was started again on this state, and why: what a restart does not forget.

import { readFile } from "node:fs/promises";
import * as z from "zod";
import { JsonFile, parseDocument } from "./json-file.ts";

/** What ended the daemon before: it stopped in order, it died, or the machine did. */
export const RESTART_CAUSES = ["stopped", "died", "reboot"] as const;
export type RestartCause = (typeof RESTART_CAUSES)[number];

const count = z.int().nonnegative();
const document = z.strictObject({
  version: z.literal(1),
  bootId: z.string(),
  stoppedInOrder: z.boolean(),
  restarts: z.strictObject({ stopped: count, died: count, reboot: count }),
});

export class RunLog {
  #restarts: Readonly<Record<RestartCause, number>> = { stopped: 0, died: 0, reboot: 0 };
  #shown = this.#restarts;
  readonly #file: JsonFile;
  #bootId = "";
  #stoppedInOrder = false;
  #isKept = false;

  constructor(path: string) {
    this.#file = new JsonFile(path, () => ({
      version: 1,
      bootId: this.#bootId,
      stoppedInOrder: this.#stoppedInOrder,
      restarts: this.#restarts,
    }));
  }

  /** As they are on disk. */
  get restarts(): Readonly<Record<RestartCause, number>> {
    return this.#shown;
  }

  /** Counts this start. What cannot be read is begun anew: it is for people to look at, no more. */
  async began(): Promise<void> {
    this.#bootId = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
    const before = await this.#before();
    if (before !== undefined) {
      const cause = causeOf(before, this.#bootId);
      this.#restarts = { ...before.restarts, [cause]: before.restarts[cause] + 1 };
    }
    this.#isKept = true;
    await this.#file.save();
    this.#shown = this.#restarts;
  }

  /** It stops in order; of no consequence unless it began. */
  async ended(): Promise<void> {
    if (!this.#isKept) return;
    this.#stoppedInOrder = true;
    await this.#file.save();
  }

  async #before(): Promise<z.infer<typeof document> | undefined> {
    try {
      const text = await this.#file.read();
      return text === undefined ? undefined : document.parse(parseDocument(text));
    } catch {
      return undefined;
    }
  }
}

function causeOf(before: z.infer<typeof document>, bootId: string): RestartCause {
  if (before.stoppedInOrder) return "stopped";
  return before.bootId === bootId ? "died" : "reboot";
}
