// SPDX-License-Identifier: Apache-2.0
// Options that several commands have, and where the daemon's socket is.

import { resolve } from "node:path";
import type { Argv } from "yargs";
import { DEFAULT_SOCKET_PATH, loadConfigOrDefault } from "../config/config.ts";
import { isAddress, placeText } from "../control/daemon-place.ts";
import { DaemonError } from "../errors.ts";

/** `--json`, for commands that print data. */
export function jsonOption<T>(y: Argv<T>) {
  return y.option("json", { type: "boolean", default: false, describe: "print JSON" });
}

/** `--socket`, `--token-file` and `--config`, for commands that ask the daemon. */
export function socketOptions<T>(y: Argv<T>) {
  return y
    .option("socket", {
      type: "string",
      requiresArg: true,
      describe: `control socket (default ${DEFAULT_SOCKET_PATH}), or http://127.0.0.1:PORT`,
    })
    .option("token-file", {
      type: "string",
      requiresArg: true,
      describe:
        "for http://: the daemon's token (default: control.token_file of the configuration)",
    })
    .option("config", {
      type: "string",
      requiresArg: true,
      describe: "take the socket's path from this configuration",
    });
}

/**
 * Where the daemon is, as daemon-place.ts writes it: the socket or address named on the command line,
 * else the given or the default configuration's socket. Faults: usage_invalid, config_invalid.
 */
export async function socketPath(given: {
  socket?: string | undefined;
  tokenFile?: string | undefined;
  config?: string | undefined;
}): Promise<string> {
  const { socket, tokenFile, config } = given;
  if (socket !== undefined && isAddress(socket)) {
    const file = tokenFile ?? (await loadConfigOrDefault(config)).control.token_file;
    if (file !== undefined) return placeText(socket, resolve(file));
    throw wrong(`${socket} wants a token: --token-file FILE`);
  }
  if (tokenFile !== undefined) throw wrong("--token-file is for --socket http://...");
  return socket ?? (await loadConfigOrDefault(config)).control.socket;
}

function wrong(detail: string): DaemonError {
  return new DaemonError({ code: "usage_invalid", detail });
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
