// SPDX-License-Identifier: Apache-2.0
// Who looks on while the daemon serves: metrics on its sockets, the count of its restarts, and
// mounts that come and go.

import { join } from "node:path";
import type { Config } from "./config/config.ts";
import { formatAddress, parseAddress } from "./config/listen-address.ts";
import type { ControlOperations } from "./control/control-operations.ts";
import type { MetricsServer } from "./control/metrics-server.ts";
import { daemonMetrics } from "./daemon-metrics.ts";
import type { CountingDoor } from "./doors.ts";
import { asDaemonError } from "./errors.ts";
import type { MountWatch } from "./mounts/mount-watch.ts";
import type { Clock } from "./platform/clock.ts";
import type { Log } from "./platform/log.ts";
import type { Rooms } from "./rooms.ts";
import { RunLog } from "./state/run-log.ts";

export interface WatchingParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Log;
  readonly rooms: Pick<Rooms, "metrics" | "engine" | "slabs">;
  readonly door: CountingDoor;
  readonly version: string;
  readonly mountWatch: Pick<MountWatch, "start" | "stop">;
}

export class Watching {
  readonly #parts: WatchingParts;
  readonly #runs: RunLog;
  readonly #endMetrics: () => void;
  #server: MetricsServer | undefined;

  constructor(parts: WatchingParts) {
    this.#parts = parts;
    const { config, clock, rooms, door, version } = parts;
    const cacheDir = config.cache.dir;
    this.#runs = new RunLog(join(cacheDir, "state", "runs.json"));
    const startedUnixMs = performance.timeOrigin;
    const of = { ...rooms, clock, door, version, cacheDir, runs: this.#runs, startedUnixMs };
    this.#endMetrics = daemonMetrics(of);
  }

  readonly metrics: ControlOperations["metrics"] = async () => {
    const { prometheusText } = await import("./platform/prometheus.ts");
    return prometheusText(this.#parts.rooms.metrics);
  };

  /** Faults: syscall_failed, config_invalid when metrics cannot be served where the configuration says. */
  async listen(): Promise<void> {
    this.#parts.mountWatch.start();
    const address = parseAddress(this.#parts.config.metrics.listen ?? "");
    if (address === undefined) return;
    const { serveMetrics } = await import("./control/metrics-server.ts");
    this.#server = await serveMetrics(address, this.metrics);
    const where = `http://${formatAddress(this.#server.address)}/metrics`;
    this.#parts.log.info({ where }, "metrics are served");
  }

  /** Counts this start; never rejects. */
  async began(): Promise<void> {
    await this.#kept(() => this.#runs.began());
  }

  /** The daemon stops in order; never rejects. */
  async stop(): Promise<void> {
    this.#endMetrics();
    await this.#server?.close();
    await this.#parts.mountWatch.stop();
    await this.#kept(() => this.#runs.ended());
  }

  async #kept(run: () => Promise<void>): Promise<void> {
    await run().catch((error: unknown) => {
      const { message } = asDaemonError(error);
      this.#parts.log.warn({}, `this start is not counted: ${message}`);
    });
  }
}
