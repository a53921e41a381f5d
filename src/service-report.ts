// SPDX-License-Identifier: Apache-2.0
// What the service manager is told while the daemon lives: that it serves, what it does, that it
// stops, and now and then that it is well. That is told from the event loop after a look at the
// door and at who waits: a daemon that hangs, or whose door does not answer, says nothing and is
// started anew.

import { asDaemonError } from "./errors.ts";
import type { Clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { NotifyFields, Systemd } from "./platform/systemd.ts";

/** How often the status line is looked at, where no watchdog wants to hear more often. */
const LOOK_MS = 10_000;
/** Of the time after which the watchdog bites: one report may be lost or late. */
const WATCHDOG_PART = 1 / 3;
/** What should have been answered by its own deadline by then has been forgotten. */
const OVERDUE_MS = 5000;

export interface ReportParts {
  readonly systemd: Pick<Systemd, "isListening" | "notify" | "watchdogUsec">;
  readonly clock: Clock;
  readonly log: Log;
  /** Why the daemon does not serve as it should; undefined when it is well. */
  readonly problem: () => string | undefined;
  /** One line for `systemctl status`. */
  readonly status: () => string;
}

export class ServiceReport {
  readonly #parts: ReportParts;
  readonly #everyMs: number;
  #told = "";
  #problem: string | undefined;
  #cancel: (() => void) | undefined;

  constructor(parts: ReportParts) {
    this.#parts = parts;
    const usec = parts.systemd.watchdogUsec();
    const watchdogMs = usec === undefined ? Infinity : (usec / 1000) * WATCHDOG_PART;
    this.#everyMs = Math.min(LOOK_MS, watchdogMs);
  }

  /** The daemon serves; what it does is told from now on. */
  async ready(): Promise<void> {
    const { systemd, status } = this.#parts;
    if (!systemd.isListening) return;
    this.#told = status();
    await this.#tell({ READY: 1, STATUS: this.#told });
    this.#schedule();
  }

  /** Another daemon goes on telling. */
  handOver(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  /** The daemon stops: nothing is told after this. */
  async stopping(): Promise<void> {
    this.#cancel?.();
    this.#cancel = undefined;
    await this.#tell({ STOPPING: 1, STATUS: "Stopping" });
  }

  #schedule(): void {
    this.#cancel = this.#parts.clock.after(this.#everyMs, () => {
      // Nothing throws in it but our own bugs.
      void this.#look();
      this.#schedule();
    });
  }

  async #look(): Promise<void> {
    const { log, problem, status, systemd } = this.#parts;
    const found = problem();
    if (found !== undefined && found !== this.#problem) {
      log.error({}, `not well, so the watchdog is not told otherwise: ${found}`);
    }
    this.#problem = found;
    const line = found === undefined ? status() : `Not well: ${found}`;
    const fields: Record<string, string | number> = {};
    if (line !== this.#told) fields["STATUS"] = line;
    if (found === undefined && systemd.watchdogUsec() !== undefined) fields["WATCHDOG"] = 1;
    this.#told = line;
    if (Object.keys(fields).length > 0) await this.#tell(fields);
  }

  async #tell(fields: NotifyFields): Promise<void> {
    try {
      await this.#parts.systemd.notify(fields);
    } catch (error) {
      // Serving goes on: whoever does not hear us will act on that.
      this.#parts.log.warn({}, `systemd cannot be told: ${asDaemonError(error).message}`);
    }
  }
}

/** Why the daemon is not well, as its rooms tell it. Looks at the door first: that may wake it. */
export function healthProblem(parts: {
  readonly door: { probe(): void };
  readonly readiness: { readonly isReady: boolean };
  readonly engine: {
    waiting(): Iterable<{ readonly cookieKey: string; readonly sinceMs: number }>;
  };
  readonly readTimeoutMs: number;
  readonly clock: Clock;
}): string | undefined {
  parts.door.probe();
  if (!parts.readiness.isReady) return "the door to the kernel is closed";
  const sinceMs = parts.clock.nowMs() - parts.readTimeoutMs - OVERDUE_MS;
  for (const { cookieKey, sinceMs: asked } of parts.engine.waiting()) {
    if (asked < sinceMs) return `a read of "${cookieKey}" is long overdue`;
  }
  return undefined;
}
