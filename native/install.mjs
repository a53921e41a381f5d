// SPDX-License-Identifier: Apache-2.0
// Runs when the package is installed: takes the prebuilt addon when there is one that loads,
// else compiles it. Headers beside the running node are used, so nothing is downloaded for it.
// (`npm run prebuildify` makes a package's prebuild; it empties build/Release, and `--keeper` puts
// the keeper, which is no addon, beside it.)

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const directory = dirname(fileURLToPath(import.meta.url));

if (process.argv.includes("--keeper")) {
  compile();
  const built = join(directory, "build/Release/erofsd-keeper");
  copyFileSync(built, join(directory, `prebuilds/linux-${process.arch}/erofsd-keeper`));
} else if (process.argv.includes("--compile") || !prebuiltLoads()) {
  compile();
}

function prebuiltLoads() {
  if (!existsSync(join(directory, "prebuilds"))) return false;
  try {
    require("node-gyp-build")(directory);
    return true;
  } catch {
    return false;
  }
}

function compile() {
  const gyp = process.env.npm_config_node_gyp ?? findNodeGyp();
  const prefix = dirname(dirname(process.execPath));
  const hasHeaders = existsSync(join(prefix, "include/node/node.h"));
  // Warnings of a compiler newer than ours must not spoil an installation; scripts/check is strict.
  const args = ["rebuild", "--silent", "--directory", directory, "--werror=false"];
  if (hasHeaders) args.push(`--nodedir=${prefix}`);
  const result =
    gyp === undefined
      ? { status: 1 }
      : spawnSync(process.execPath, [gyp, ...args], { stdio: ["ignore", "ignore", "inherit"] });
  if (result.status === 0) return;
  console.error(
    "erofsd: compiling the native addon failed; it needs build-essential, python3, libzstd-dev, " +
      "liblz4-dev and zlib1g-dev",
  );
  process.exit(1);
}

function findNodeGyp() {
  try {
    return require.resolve("node-gyp/bin/node-gyp.js");
  } catch {
    return undefined;
  }
}
