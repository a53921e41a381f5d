// SPDX-License-Identifier: Apache-2.0
// When V8 begins to compile.

import { setFlagsFromString } from "node:v8";

/** A daemon's first readers share the machine with V8's compiler: it begins later. */
export function optimizeLater(): void {
  // Fifteen times Node 20's own figure; later versions have a compiler between, and not this flag.
  if (process.versions.v8.startsWith("11.")) setFlagsFromString("--interrupt-budget=1000000");
}
