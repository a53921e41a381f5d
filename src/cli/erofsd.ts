#!/usr/bin/env -S node --max-semi-space-size=2
// SPDX-License-Identifier: Apache-2.0
// The `erofsd` command. `serve` goes straight to the daemon, without loading the command-line
// library: its start-up time is somebody's waiting time. What passes through is in buffers of its
// own, so V8 gets a small young generation: a tenth less memory.

import { parseArgs } from "node:util";
import { DaemonError } from "../errors.ts";
import { optimizeLater } from "../platform/optimize-later.ts";

/** So long a file that is being written at the end has to get there. */
const LEFT_OVER_MS = 2000;

const [command, ...rest] = process.argv.slice(2);
const wantsHelp = rest.some((word) => word === "--help" || word === "-h");

// `erofsd images | head`: whoever reads has had enough.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit();
});

try {
  if (command === "serve" && !wantsHelp) {
    optimizeLater();
    const { serve } = await import("../serve.ts");
    process.exitCode = await serve(serveOptions(rest));
  } else {
    const { runCommand } = await import("./commands.ts");
    process.exitCode = await runCommand(process.argv.slice(2));
  }
} catch (error) {
  const { reportError } = await import("./report.ts");
  process.exitCode = reportError(error);
}
// It has ended, in order or not: whatever is left must not keep the service manager waiting.
if (command === "serve") setTimeout(() => process.exit(), LEFT_OVER_MS).unref();

function serveOptions(words: string[]): { configPath: string | undefined } {
  try {
    const { values } = parseArgs({ args: words, options: { config: { type: "string" } } });
    return { configPath: values.config };
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    throw new DaemonError({ code: "usage_invalid", detail: `serve: ${detail}` }, { cause: error });
  }
}
