// SPDX-License-Identifier: Apache-2.0
// WebAssembly is compiled once, by V8's baseline compiler. The HTTP client's parser is all there is
// of it, and only headers pass through that: optimizing it would touch 35 MiB of fresh memory in
// the middle of the first reads, and on a slow machine take a second from them.

import { setFlagsFromString } from "node:v8";

/** Call it before the first WebAssembly module is loaded. */
export function compileWasmOnce(): void {
  setFlagsFromString("--liftoff-only");
}
