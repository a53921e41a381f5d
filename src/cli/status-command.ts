// SPDX-License-Identifier: Apache-2.0
// `erofsd status`: the daemon's counters and open objects, for people or as JSON.

import type { Status } from "../control/schema.ts";
import { MIB } from "../units.ts";

export function printStatus(status: Status, options: { json: boolean }): void {
  if (options.json) {
    process.stdout.write(`${JSON.stringify(status)}\n`);
    return;
  }
  const { kernelMessages, source, cache } = status;
  const lines = [
    `erofsd ${status.version}, pid ${status.pid}`,
    `kernel    ${kernelMessages.open} opens, ${kernelMessages.read} reads, ${kernelMessages.close} closes; ${status.waitingReads} reads waiting`,
    `fetched   ${mebibytes(source.bytes)} in ${source.requests} requests, ${source.failures} failed`,
    `cached    ${mebibytes(cache.writtenBytes)} in ${cache.writes} writes`,
    `objects   ${status.objects.length} open`,
    ...status.objects.map(
      (object) =>
        `  ${mebibytes(object.cachedBytes).padStart(12)} of ${mebibytes(object.sizeBytes).padStart(12)}  ${object.cookieKey}`,
    ),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}

function mebibytes(bytes: number): string {
  return `${(bytes / MIB).toFixed(1)} MiB`;
}
