// SPDX-License-Identifier: Apache-2.0
// What of the configuration may be changed while it is used. A change is not written anywhere: the
// next daemon begins with its file again.

import * as z from "zod";
import { DaemonError } from "../errors.ts";
import { type Config, configSchema } from "./config.ts";
import { shapeOf } from "./config-view.ts";

/** What takes each of them up, after the configuration has it. */
export interface LiveEffects {
  logLevel(level: Config["log"]["level"]): void;
  prefetchBandwidth(bytesPerSecond: number): void;
  /** Of what is opened from now on. */
  windows(windowBytes: number, windowBytesMax: number): void;
  hedgePercent(percent: number): void;
}

type Put = (config: Config, value: unknown) => void;

/** How each that is live is kept; its value has been checked. */
const LIVE: ReadonlyMap<string, Put> = new Map<string, Put>([
  ["log.level", (config, value) => Object.assign(config.log, { level: value })],
  ["prefetch.bandwidth", (config, value) => Object.assign(config.prefetch, { bandwidth: value })],
  ["engine.window", (config, value) => Object.assign(config.engine, { window: value })],
  ["engine.window_max", (config, value) => Object.assign(config.engine, { window_max: value })],
  [
    "registry.hedge_percent",
    (config, value) => Object.assign(config.registry, { hedge_percent: value }),
  ],
]);
export const LIVE_KEYS: readonly string[] = [...LIVE.keys()];

/**
 * Changes `config` by `section.key`: all of it, or nothing. Fault: request_invalid, naming the key.
 */
export function changeLive(
  config: Config,
  changes: Readonly<Record<string, unknown>>,
  effects: LiveEffects,
): void {
  const checked = Object.entries(changes).map(([key, value]) => {
    const schema = schemaOf(key);
    if (schema === undefined) throw invalid(key, "unknown key");
    const put = LIVE.get(key);
    if (put === undefined) {
      const live = LIVE_KEYS.join(", ");
      throw invalid(
        key,
        `it takes effect at a start alone: restart with it in the file (${live} are live)`,
      );
    }
    const result = z.safeParse(schema, value);
    if (!result.success) throw invalid(key, result.error.issues[0]?.message ?? "not as expected");
    return { put, value: result.data };
  });
  for (const { put, value } of checked) put(config, value);
  effects.logLevel(config.log.level);
  effects.prefetchBandwidth(config.prefetch.bandwidth);
  const { window, window_max: most } = config.engine;
  effects.windows(window, Math.max(window, most));
  effects.hedgePercent(config.registry.hedge_percent);
}

function schemaOf(key: string): z.core.$ZodType | undefined {
  const [section = "", name = "", ...more] = key.split(".");
  if (more.length > 0) return undefined;
  const found = Object.entries(configSchema.shape).find(([known]) => known === section)?.[1];
  return found === undefined ? undefined : shapeOf(found)[name];
}

function invalid(field: string, detail: string): DaemonError {
  return new DaemonError({ code: "request_invalid", field, detail });
}
