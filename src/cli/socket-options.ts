// SPDX-License-Identifier: Apache-2.0
// Options that several commands have, and where the daemon's socket is.

import { readFile } from "node:fs/promises";
import type { Argv } from "yargs";
import { DEFAULT_CONFIG_PATH, DEFAULT_SOCKET_PATH, loadConfig } from "../config/config.ts";

/** `--json`, for commands that print data. */
export function jsonOption<T>(y: Argv<T>) {
  return y.option("json", { type: "boolean", default: false, describe: "print JSON" });
}

/** `--socket` and `--config`, for commands that ask the daemon. */
export function socketOptions<T>(y: Argv<T>) {
  return y
    .option("socket", {
      type: "string",
      requiresArg: true,
      describe: `control socket (default ${DEFAULT_SOCKET_PATH})`,
    })
    .option("config", {
      type: "string",
      requiresArg: true,
      describe: "take the socket's path from this configuration",
    });
}

/** The socket named on the command line, else the given or the default configuration's. */
export async function socketPath(given: {
  socket?: string | undefined;
  config?: string | undefined;
}) {
  if (given.socket !== undefined) return given.socket;
  if (given.config !== undefined) return (await loadConfig(given.config)).control.socket;
  const hasDefault = await readFile(DEFAULT_CONFIG_PATH).catch(() => undefined);
  if (hasDefault === undefined) return DEFAULT_SOCKET_PATH;
  return (await loadConfig(DEFAULT_CONFIG_PATH)).control.socket;
}
