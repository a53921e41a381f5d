// SPDX-License-Identifier: Apache-2.0
// Options that several commands have, and where the daemon's socket is.

import type { Argv } from "yargs";
import { DEFAULT_SOCKET_PATH, loadConfigOrDefault } from "../config/config.ts";

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
  return (await loadConfigOrDefault(given.config)).control.socket;
}

export const IMAGE_NAME =
  "an fsid, a reference or a manifest's digest, as `erofsd images` lists them";

/** `<name>`, for commands about one image that the daemon knows. */
export function imageName<T>(y: Argv<T>) {
  return y.positional("name", {
    type: "string",
    demandOption: true,
    describe: IMAGE_NAME,
  });
}
