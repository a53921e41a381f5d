// SPDX-License-Identifier: Apache-2.0
// Bundles the two programs into dist/cli: a daemon that loads five files starts in half the time
// of one that loads three hundred. What is loaded late stays in files of its own. What has a
// compiled part, or is for development only, stays in node_modules.
// dist/build-id is a hash of all of it: which build a running daemon is.

import { createHash } from "node:crypto";
import { chmod, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const root = new URL("../../", import.meta.url);
const outdir = new URL("dist/cli/", root);
const programs = ["erofsd", "erofsd-nydusd"];

await rm(new URL("dist/", root), { recursive: true, force: true });
await build({
  absWorkingDir: root.pathname,
  entryPoints: programs.map((name) => `src/cli/${name}.ts`),
  outdir: outdir.pathname,
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20",
  minifySyntax: true,
  minifyWhitespace: true,
  sourcemap: "linked",
  sourcesContent: false,
  external: ["ffi-napi", "ref-napi", "node-gyp-build", "@napi-rs/blake-hash", "pino-pretty"],
  // Packages in CommonJS form ask for Node's own modules by require().
  banner: {
    js: 'import { createRequire as requireOf } from "node:module"; const require = requireOf(import.meta.url);',
  },
  logLevel: "warning",
});

const hash = createHash("sha1");
for (const directory of [outdir, new URL("native/src/", root)]) {
  for (const name of (await readdir(directory)).toSorted()) {
    if (name.endsWith(".map")) continue;
    hash.update(name).update(await readFile(new URL(name, directory)));
  }
}
for (const name of programs) await chmod(new URL(`${name}.js`, outdir), 0o755);
await writeFile(new URL("dist/build-id", root), `${hash.digest("hex")}\n`);
