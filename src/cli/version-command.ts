// SPDX-License-Identifier: Apache-2.0
// `erofsd version`: of this program, and of the daemon where one answers.

import { ask } from "../control/client.ts";
import { healthAnswer } from "../control/schema.ts";
import { packageVersion } from "../platform/package-root.ts";
import { type Output, jsonLine } from "./output.ts";

/** Never fails for want of a daemon. */
export async function versionCommand(
  given: { readonly socketPath: string; readonly json: boolean },
  output: Output = process.stdout,
): Promise<void> {
  const request = { method: "GET", path: "/v1/health", answer: healthAnswer } as const;
  const health = await ask(given.socketPath, request).catch(() => undefined);
  const version = await packageVersion();
  const daemon = health === undefined ? null : { version: health.version, pid: health.pid };
  if (given.json) {
    output.write(jsonLine({ version, node: process.versions.node, daemon }));
    return;
  }
  const told = daemon === null ? "none answers" : `${daemon.version}, pid ${daemon.pid}`;
  output.write(`erofsd ${version} (Node.js ${process.versions.node})\ndaemon ${told}\n`);
}
