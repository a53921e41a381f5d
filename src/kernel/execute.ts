// SPDX-License-Identifier: Apache-2.0
// execv(3), for the command line: Node.js has no such call before version 23.

import { constants } from "node:os";
import ffi from "ffi-napi";
import ref from "ref-napi";
import { fault } from "../platform/native-binding.ts";

const POINTER_BYTES = 8;
const F_SETFD = 2;

const libc = ffi.Library(null, {
  execv: ["int", ["string", "pointer"]],
  fcntl: ["int", ["int", "int", "int"]],
});

/**
 * This process becomes `path` with these arguments (without the program's name). It has standard
 * input, output and error, and `fds`. Fault: syscall_failed.
 */
export function execute(
  path: string,
  words: readonly string[],
  fds: readonly number[] = [],
): never {
  const texts = [path, ...words].map((word) => Buffer.from(`${word}\0`));
  // Ends with NULL.
  const argv = Buffer.alloc((texts.length + 1) * POINTER_BYTES);
  for (const [index, text] of texts.entries()) ref.writePointer(argv, index * POINTER_BYTES, text);
  // Node.js has them closed in children, but for those that it starts itself.
  for (const fd of [0, 1, 2, ...fds]) libc.fcntl(fd, F_SETFD, 0);
  libc.execv(path, argv);
  const errno = ffi.errno();
  throw fault("execv", errno === 0 ? constants.errno.EIO : errno, path);
}
