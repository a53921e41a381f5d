// SPDX-License-Identifier: Apache-2.0
// package-tree.mjs DIRECTORY: lays out the program as it is installed, for this platform: the
// bundle, the addon, the keeper, and of node_modules what the bundle leaves outside, compiled.
// Needs no compiler, no npm and no network where it goes.

import { chmod, cp, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { EXTERNAL } from "./bundle-parts.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const [target] = process.argv.slice(2);
if (target === undefined) throw new Error("usage: package-tree.mjs DIRECTORY");

/** What a module is at run time. The rest is sources, tests, types and other platforms' builds. */
const RUNTIME = /\.(js|cjs|mjs|json|node)$|^(licen[cs]e|notice|copying)/i;
const NOT_RUNTIME =
  /(^|\/)(tests?|examples?|docs?|deps|types|fixtures|tools|src|obj\.target|\.[^/]+)\/|^((bench|example|test-|eslint).*|(bin|optional|build-test)\.js|package-(lock|support)\.json)$/;
/** Needed to compile the others alone. */
const BUILD_ONLY = new Set(["node-addon-api", "get-uv-event-loop-napi-h"]);

const manifest = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
await mkdir(target, { recursive: true });
const { name, version, description, license, type, engines } = manifest;
const kept = { name, version, description, license, type, engines };
await writeFile(join(target, "package.json"), `${JSON.stringify(kept, undefined, 2)}\n`);
await copyTree(join(root, "dist"), join(target, "dist"), (path) => !path.endsWith(".map"));
const built = "native/build/Release";
await mkdir(join(target, built), { recursive: true });
for (const file of ["erofsd.node", "erofsd-keeper"]) {
  await cp(join(root, built, file), join(target, built, file));
  await chmod(join(target, built, file), file.endsWith(".node") ? 0o644 : 0o755);
}
for (const [directory, source] of modulesOf(EXTERNAL)) {
  const to = join(target, "node_modules", directory);
  const isSrcNeeded = await mainIsInSrc(source);
  await copyTree(source, to, (path) => isRuntime(path, isSrcNeeded));
}

function isRuntime(path, isSrcNeeded) {
  if (/(^|\/)node_modules\//.test(path)) return false;
  const judged = isSrcNeeded ? path.replace(/^src\//, "") : path;
  if (NOT_RUNTIME.test(judged)) return false;
  if (path.includes("prebuilds/") && !path.includes(`prebuilds/linux-${process.arch}/`)) return false;
  return RUNTIME.test(basename(path));
}

async function mainIsInSrc(directory) {
  const { main = "", exports: entries = "" } = JSON.parse(
    await readFile(join(directory, "package.json"), "utf8"),
  );
  return /(^|["./])src\//.test(`${main} ${JSON.stringify(entries)}`);
}

/** Where each module goes below node_modules, and where it is now: `names` and all they need. */
function modulesOf(names) {
  const found = new Map();
  const visit = (name, from, isOptional) => {
    if (BUILD_ONLY.has(name)) return;
    const directory = directoryOf(name, from);
    if (directory === undefined) {
      if (isOptional) return;
      throw new Error(`${name}, which ${from} needs, is not installed`);
    }
    const place = relative(join(root, "node_modules"), directory);
    if (found.has(place)) return;
    found.set(place, directory);
    const { dependencies = {}, optionalDependencies = {} } = createRequire(import.meta.url)(
      join(directory, "package.json"),
    );
    for (const each of Object.keys(dependencies)) {
      visit(each, directory, each in optionalDependencies);
    }
    for (const each of Object.keys(optionalDependencies)) visit(each, directory, true);
  };
  for (const name of names) visit(name, root, false);
  return [...found].toSorted(([a], [b]) => (a < b ? -1 : 1));
}

/** As node looks for it: in node_modules of `from`, then of its parents, up to ours. */
function directoryOf(name, from) {
  const require = createRequire(join(from, "package.json"));
  for (const place of require.resolve.paths(name) ?? []) {
    if (!place.startsWith(root)) break;
    try {
      require.resolve(join(place, name, "package.json"));
      return join(place, name);
    } catch {
      // further up
    }
  }
  return undefined;
}

async function copyTree(from, to, isWanted) {
  const entries = await readdir(from, { recursive: true, withFileTypes: true });
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    const at = relative(from, path);
    if (!isWanted(at)) continue;
    const copy = join(to, at);
    await mkdir(dirname(copy), { recursive: true });
    await cp(path, copy);
    const isProgram = from.endsWith("dist") && /^cli\/erofsd(-nydusd)?\.js$/.test(at);
    await chmod(copy, isProgram ? 0o755 : 0o644);
  }
}
