// SPDX-License-Identifier: Apache-2.0
// `erofsd config check` and `config show`.

import { access } from "node:fs/promises";
import { stringify } from "smol-toml";
import { DEFAULT_CONFIG_PATH, loadConfig } from "../config/config.ts";
import { type ConfigView, configView, viewConfig } from "../config/config-view.ts";
import { ask } from "../control/client.ts";
import { readToken } from "../control/token.ts";
import { type Output, jsonLine } from "./output.ts";

/** Checks a file as `serve` does. Fault: config_invalid, naming the file and what is wrong. */
export async function configCheckCommand(
  given: { readonly file: string | undefined; readonly json: boolean },
  output: Output = process.stdout,
): Promise<void> {
  const path = given.file ?? DEFAULT_CONFIG_PATH;
  const isAbsent = given.file === undefined && !(await exists(path));
  const config = isAbsent ? undefined : await loadConfig(path);
  const tokenFile = config?.control.token_file;
  if (tokenFile !== undefined) await readToken(tokenFile);
  if (given.json) output.write(jsonLine({ path, exists: !isAbsent, valid: true }));
  else output.write(`${path}: ${isAbsent ? "does not exist, the defaults are used" : "ok"}\n`);
}

/** Prints the configuration that the running daemon uses, or that `file` would make it use. */
export async function configShowCommand(
  given: {
    readonly file: string | undefined;
    readonly json: boolean;
    readonly socketPath: () => Promise<string>;
  },
  output: Output = process.stdout,
): Promise<void> {
  const view: ConfigView =
    given.file === undefined
      ? await ask(await given.socketPath(), {
          method: "GET",
          path: "/v1/config",
          answer: configView,
        })
      : viewConfig(await loadConfig(given.file));
  output.write(given.json ? jsonLine(view) : `${stringify(view)}\n`);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    (error: unknown) => !(error instanceof Error && "code" in error && error.code === "ENOENT"),
  );
}
