// SPDX-License-Identifier: Apache-2.0
// What ends a daemon: signals, faults, and upgrades.
//
//   SIGTERM, SIGINT   it stops; a second one ends it at once
//   SIGHUP            an upgrade, as `erofsd upgrade` asks for it

import { DaemonError, asDaemonError } from "./errors.ts";
import type { Log } from "./platform/log.ts";
import { Successor } from "./upgrade.ts";

export type Ending =
  | { readonly kind: "stop" }
  | { readonly kind: "fault"; readonly error: DaemonError }
  | { readonly kind: "upgrade"; readonly successor: Successor };

export interface LifeParts {
  readonly log: Log & { fatal(fields: object, message: string): void };
  /** The control socket, where systemd listens at it; a successor gets it. */
  readonly controlFd: number | undefined;
  /** What a successor needs to know of the service manager. */
  readonly environment: () => Readonly<Record<string, string>>;
}

export class Life {
  readonly #parts: LifeParts;
  readonly #endings: Ending[] = [];
  #onEnding: (() => void) | undefined;
  #signals = 0;
  #isUpgrading = false;

  constructor(parts: LifeParts) {
    this.#parts = parts;
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        this.#signals += 1;
        if (this.#signals > 1) process.exit(128 + (signal === "SIGINT" ? 2 : 15));
        parts.log.info({ signal }, "stopping");
        this.#end({ kind: "stop" });
      });
    }
    process.on("SIGHUP", () => {
      this.upgrade().catch((error: unknown) => {
        parts.log.error({}, `no upgrade: ${asDaemonError(error).message}`);
      });
    });
    // Our own bug: answer what waits, then go; the service manager starts us again.
    process.on("uncaughtException", (error) => {
      parts.log.fatal({ err: error }, `a bug: ${error.message}`);
      this.fail(asDaemonError(error));
    });
  }

  fail(error: DaemonError): void {
    this.#end({ kind: "fault", error });
  }

  /** It was asked to stop. */
  get isStopping(): boolean {
    return this.#signals > 0;
  }

  /** Resolves with the next ending. */
  async ending(): Promise<Ending> {
    for (;;) {
      const first = this.#endings.shift();
      if (first !== undefined) return first;
      await new Promise<void>((resolve) => {
        this.#onEnding = resolve;
      });
    }
  }

  /**
   * Starts the program as it is on disk now; resolves with its process id when it is prepared to
   * follow. Faults: upgrade_failed (nothing has changed), daemon_busy, stopping.
   */
  async upgrade(): Promise<{ pid: number }> {
    if (this.isStopping) throw new DaemonError({ code: "stopping" });
    if (this.#isUpgrading) {
      throw new DaemonError({ code: "daemon_busy", detail: "an upgrade is under way" });
    }
    this.#isUpgrading = true;
    this.#parts.log.info({}, "an upgrade: the new daemon is started");
    try {
      const successor = await Successor.start(this.#parts);
      this.#end({ kind: "upgrade", successor });
      return { pid: successor.pid };
    } catch (error) {
      this.#isUpgrading = false;
      throw error;
    }
  }

  /** It did not work out: another one may be tried. */
  upgradeFailed(): void {
    this.#isUpgrading = false;
  }

  #end(ending: Ending): void {
    this.#endings.push(ending);
    this.#onEnding?.();
  }
}
