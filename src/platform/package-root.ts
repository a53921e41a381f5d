// SPDX-License-Identifier: Apache-2.0
// Where this package is installed, from src/ as from dist/.

import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import * as z from "zod";

const manifest = z.object({ version: z.string() });

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

/** This package's version, as package.json gives it. */
export async function packageVersion(): Promise<string> {
  const text = await readFile(new URL("package.json", findPackageRoot()), "utf8");
  return manifest.parse(JSON.parse(text)).version;
}
