// SPDX-License-Identifier: Apache-2.0
// A directory of a test's own, removed when the test has ended; what is still being written there
// may be in the way for a moment.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

export async function tempDir(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "erofsd-test-"));
  onTestFinished(() => rm(path, { recursive: true, force: true, maxRetries: 5 }));
  return path;
}
