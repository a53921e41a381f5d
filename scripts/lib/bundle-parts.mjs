// SPDX-License-Identifier: Apache-2.0
// What the bundle leaves in node_modules: what has a compiled part, or is for people at a terminal.

export const EXTERNAL = [
  "ffi-napi",
  "ref-napi",
  "node-gyp-build",
  "@napi-rs/blake-hash",
  "pino-pretty",
];
