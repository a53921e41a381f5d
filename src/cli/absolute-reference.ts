// SPDX-License-Identifier: Apache-2.0
// References that are paths, as the daemon, which has another directory, can use them.

import { resolve } from "node:path";

export function absoluteReference(reference: string): string {
  const [, kind, path] = /^(oci|rafs):([^/].*)$/.exec(reference) ?? [];
  const absolute = path === undefined ? reference : `${kind}:${resolve(path)}`;
  return absolute.replace(/(?<=^rafs:.*\?blobs=)[^/].*$/, (directory) => resolve(directory));
}
