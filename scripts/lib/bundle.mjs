// SPDX-License-Identifier: Apache-2.0
// Bundles the two programs into dist/cli. A file costs 15 ms to load in a slow guest, so there are
// few: what erofsd-nydusd needs before its socket listens is one, what serves is one, what is
// loaded late (HTTP client, commands) stays apart. What has a compiled part, or is for
// development only, stays in node_modules.
// dist/build-id is a hash of all of it: which build a running daemon is. It is made aside and put in
// place when it is another one: who runs a program meanwhile finds all of its files.

import { createHash } from "node:crypto";
import { chmod, mkdir, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";
import { EXTERNAL } from "./bundle-parts.mjs";

const root = new URL("../../", import.meta.url);
const dist = new URL("dist", root);
const aside = new URL(`.build/dist-${process.pid}/`, root);
const outdir = new URL("cli/", aside);
const programs = ["erofsd", "erofsd-nydusd", "erofsd-mount"];

const START =
  /src\/(errors|units|nydusd\/[^/]+|platform\/(clock|private-socket|durable-file)|state\/json-file)\.ts$/;
const ROOMS =
  /src\/((rooms|nydusd-[^/]+)\.ts|(decoder|flow|image|planner|state|cache|platform(?!\/prometheus))\/|kernel\/(?!mount|loop-device|syscall|execute)|source\/(source|sources|blob-file|registry\/(access|options|credentials\/(environment|grant|host-keys|pushed)))\.ts)|node_modules\/lru-cache\//;
/** What a command needs beside its own words: it is somebody's waiting time too. */
const SHAPES =
  /src\/(config\/|control\/(token|daemon-place|[a-z-]*schema)\.ts|kernel\/(cachefiles\/keys|fanotify\/names|mount-orders)\.ts|image\/(trace-format|oci\/(reference|media-types))\.ts|platform\/(secret|package-root|log-choices)\.ts)|node_modules\/(zod|smol-toml|fastest-levenshtein)\//;
const SOURCES = /src\/source\/(?!bootstrap-layer|layer-stream)/;
const CONTROL = /src\/control\/(?!client|openapi)/;
const METRICS = /platform\/prometheus\.ts$|node_modules\/(prom-client|tdigest|bintrees|@opentelemetry)\//;

const groups = [
  { name: "metrics", test: METRICS, priority: 4 },
  { name: "start", test: START, priority: 3 },
  { name: "http-client", test: /node_modules\/undici\//, priority: 2 },
  { name: "log", test: /platform\/log\.ts$|node_modules\/(pino|sonic-boom)/, priority: 2 },
  { name: "shapes", test: SHAPES, priority: 2 },
  { name: "rooms", test: ROOMS, priority: 1 },
  { name: "control", test: CONTROL, priority: 1 },
  { name: "sources", test: SOURCES, priority: 0 },
];

await mkdir(aside, { recursive: true });
const bundle = await rolldown({
  cwd: fileURLToPath(root),
  input: Object.fromEntries(programs.map((name) => [name, `src/cli/${name}.ts`])),
  platform: "node",
  external: EXTERNAL,
});
await bundle.write({
  dir: fileURLToPath(outdir),
  format: "esm",
  minify: { mangle: false, compress: true, codegen: { removeWhitespace: true } },
  sourcemap: true,
  chunkFileNames: "[name]-[hash].js",
  codeSplitting: { groups },
});
await bundle.close();

const hash = createHash("sha1");
for (const directory of [outdir, new URL("native/src/", root)]) {
  for (const name of (await readdir(directory)).toSorted()) {
    if (name.endsWith(".map")) continue;
    hash.update(name).update(await readFile(new URL(name, directory)));
  }
}
for (const name of programs) await chmod(new URL(`${name}.js`, outdir), 0o755);
const buildId = `${hash.digest("hex")}\n`;
await writeFile(new URL("build-id", aside), buildId);
const present = await readFile(new URL("dist/build-id", root), "utf8").catch(() => undefined);
if (present !== buildId) {
  const old = new URL(`.build/dist-old-${process.pid}`, root);
  await rename(dist, old).catch(() => undefined);
  // Somebody else may have put theirs there meanwhile.
  await rename(aside, dist).catch(() => undefined);
  await rm(old, { recursive: true, force: true });
}
await rm(aside, { recursive: true, force: true });
