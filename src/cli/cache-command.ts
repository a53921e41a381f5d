// SPDX-License-Identifier: Apache-2.0
// `erofsd cache usage`, `erofsd cache prune`, `erofsd rmi` and `erofsd config set`.

import { configView } from "../config/config-view.ts";
import { type PruneRequest, prunedAnswer, removedImage } from "../control/cache-schema.ts";
import { ask } from "../control/client.ts";
import { cacheAnswer } from "../control/image-schema.ts";
import { DaemonError } from "../errors.ts";
import { type Output, jsonLine, printable, share, size } from "./output.ts";

interface Given {
  readonly socketPath: string;
  readonly json: boolean;
}

export async function cacheUsage(given: Given, output: Output = process.stdout): Promise<void> {
  const path = "/v1/cache";
  const usage = await ask(given.socketPath, { method: "GET", path, answer: cacheAnswer });
  if (given.json) {
    output.write(jsonLine(usage));
    return;
  }
  const { dir, usedBytes, openBytes, files, filesystem } = usage;
  const facts: [string, string][] = [
    ["directory", dir],
    ["cached", `${size(usedBytes)} in ${files} files`],
    ["open", `${size(openBytes)} of what is open now`],
    [
      "free",
      `${size(filesystem.freeBytes)} of ${size(filesystem.sizeBytes)} (${share(filesystem.freeBytes, filesystem.sizeBytes)})`,
    ],
  ];
  for (const [name, value] of facts) output.write(`${name.padEnd(9)} ${printable(value)}\n`);
}

export async function cachePrune(
  given: Given & { readonly wish: PruneRequest },
  output: Output = process.stdout,
): Promise<void> {
  const pruned = await ask(given.socketPath, {
    method: "POST",
    path: "/v1/cache/prune",
    body: given.wish,
    answer: prunedAnswer,
  });
  if (given.json) {
    output.write(jsonLine(pruned));
    return;
  }
  const { files, bytes, inUse } = pruned;
  const kept = inUse === 0 ? "" : `; ${inUse} in use stay`;
  output.write(`${size(bytes)} in ${files} files given up${kept}\n`);
}

export async function removeImage(
  given: Given & { readonly name: string },
  output: Output = process.stdout,
): Promise<void> {
  const path = `/v1/images/${encodeURIComponent(given.name)}`;
  const removed = await ask(given.socketPath, { method: "DELETE", path, answer: removedImage });
  const { reference, bytes } = removed;
  output.write(
    given.json ? jsonLine(removed) : `${printable(reference)}: removed, ${size(bytes)} given up\n`,
  );
}

export async function setConfig(
  given: Given & { readonly key: string; readonly value: string },
  output: Output = process.stdout,
): Promise<void> {
  const { key, value } = given;
  const body = { [key]: /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : value };
  const request = { method: "PATCH", path: "/v1/config", body, answer: configView } as const;
  const view = await ask(given.socketPath, request);
  output.write(
    given.json
      ? jsonLine(view)
      : `${key} is ${value} until the daemon stops; its file is as it was\n`,
  );
}

const SPANS: ReadonlyMap<string, number> = new Map([
  ["s", 1],
  ["m", 60],
  ["h", 3600],
  ["d", 86_400],
]);

/** "90s", "12h", "30d" in seconds. Fault: usage_invalid. */
export function secondsOf(text: string): number {
  const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)([smhd])$/.exec(text) ?? [];
  const factor = SPANS.get(unit);
  if (digits !== undefined && factor !== undefined) return Number(digits) * factor;
  const detail = `--older-than ${text}: write a number and one of s, m, h, d`;
  throw new DaemonError({ code: "usage_invalid", detail });
}
