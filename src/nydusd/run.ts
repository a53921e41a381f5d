// SPDX-License-Identifier: Apache-2.0
// The process `erofsd-nydusd`: command line in, signals, the log, and how it ends. It is meant to
// outlive whoever started it, so neither a broken pipe nor a hang-up means anything.

import { writeSync } from "node:fs";
import { MIB } from "../units.ts";
import { systemClock as clock } from "../platform/clock.ts";
import { Adapter } from "./adapter.ts";
import { textOf } from "./api-error.ts";
import { versionText } from "./build-info.ts";
import { usage } from "./flags.ts";
import { EarlyLog } from "./log.ts";
import { type LineSink, openLineSink } from "./log-lines.ts";
import { type Options, parseCommandLine } from "./options.ts";
import type { ServiceModule } from "./rooms.ts";

/** Last lines get so long to be written. */
const DRAIN_MS = 50;

/** Does what `words` say; ends the process unless it serves. `load` brings the rooms. */
export async function runNydusd(
  words: readonly string[],
  load: () => Promise<ServiceModule>,
): Promise<void> {
  try {
    const command = parseCommandLine(words);
    if (command.kind === "serve") await serve(command.options, load);
    else writeSync(1, command.kind === "version" ? versionText() : usage());
  } catch (error) {
    complain(error);
    process.exit(1);
  }
}

async function serve(options: Options, load: () => Promise<ServiceModule>): Promise<void> {
  const log = new EarlyLog();
  const sink = openSink(options);
  const leave = (status: number): void => {
    void sink.drain(DRAIN_MS).then(() => {
      process.exit(status);
    });
  };
  const adapter = new Adapter({
    options,
    clock,
    log,
    leave,
    load: async () => {
      await log.attach({ level: options.logLevel, sink });
      return load();
    },
    setLogLevel: (level) => {
      log.setLevel(level);
    },
  });
  watchProcess(adapter, { log, leave });
  try {
    await adapter.begin();
  } catch (error) {
    log.error({}, `cannot start: ${textOf(error)}`);
    await sink.drain(DRAIN_MS);
    throw error;
  }
}

function openSink(options: Options): LineSink {
  const { logFile, logRotationMib } = options;
  if (logFile === undefined) return openLineSink(undefined);
  return openLineSink({ path: logFile, rotateBytes: logRotationMib * MIB });
}

function watchProcess(
  adapter: Adapter,
  { log, leave }: { log: EarlyLog; leave: (status: number) => void },
): void {
  let signals = 0;
  for (const [signal, number] of [
    ["SIGTERM", 15],
    ["SIGINT", 2],
  ] as const) {
    process.on(signal, () => {
      signals += 1;
      if (signals > 1) process.exit(128 + number);
      log.info({ signal }, "stopping");
      adapter.stop().then(
        () => {
          leave(0);
        },
        (error: unknown) => {
          log.error({}, `stopping failed: ${textOf(error)}`);
          leave(1);
        },
      );
    });
  }
  process.on("SIGHUP", () => undefined);
  // Our own bug. To end at once, as if killed, is the best for whoever waits: the device is held
  // by the supervisor or the keeper, and the next daemon answers.
  process.on("uncaughtException", (error) => {
    log.error({ err: error }, `a bug: ${error.message}`);
    leave(1);
  });
}

/** One line on stderr, if there is still somebody to read it. */
function complain(error: unknown): void {
  try {
    writeSync(2, `erofsd-nydusd: ${textOf(error).replaceAll("\n", " ")}\n`);
  } catch {
    // nobody
  }
}
