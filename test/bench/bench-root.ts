// SPDX-License-Identifier: Apache-2.0
// The root that the benchmark's programs start in: scripts/lib/bench-root.

import { execFile } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { findPackageRoot } from "../../src/platform/package-root.ts";

const PROGRAM = fileURLToPath(new URL("scripts/lib/bench-root", findPackageRoot()));

/** Makes the directory and fills it. */
export async function makeBenchRoot(directory: string): Promise<void> {
  await mkdir(directory);
  await promisify(execFile)(PROGRAM, [directory]);
}
