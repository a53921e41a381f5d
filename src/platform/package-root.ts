// SPDX-License-Identifier: Apache-2.0
// Where this package is installed, from src/ as from dist/.

import { existsSync } from "node:fs";

let known: URL | undefined;

/** The directory with our package.json, as a file: URL that ends with a slash. */
export function findPackageRoot(): URL {
  if (known !== undefined) return known;
  let directory = new URL("./", import.meta.url);
  while (!existsSync(new URL("package.json", directory))) {
    const parent = new URL("../", directory);
    if (parent.href === directory.href) throw new Error("package.json of erofsd is missing");
    directory = parent;
  }
  known = directory;
  return directory;
}
