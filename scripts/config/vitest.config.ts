// SPDX-License-Identifier: Apache-2.0
// Which tests run on the host, and how many files at once.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/{unit,contract,fault,fuzz,host,sim}/**/*.test.ts"],
    testTimeout: 30_000,
    // For two cores: a third of the time of what runs longest is waiting.
    maxWorkers: 3,
  },
});
