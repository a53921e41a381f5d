// SPDX-License-Identifier: Apache-2.0
// Which build this is, in nydusd's words. The snapshotter compares the "commit" of `--version`
// with the one a running daemon tells, and starts an upgrade when they differ. So it is a hash of
// the program's own files: the same for one installation, another as soon as the program changes.

import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Written by a build that wants to spare the hashing; its text is the "commit". */
const STAMP = "build-id";

export interface BuildInfo {
  readonly package_ver: string;
  readonly git_commit: string;
  readonly build_time: string;
  readonly profile: string;
  readonly rustc: string;
}

let known: BuildInfo | undefined;

export function buildInfo(): BuildInfo {
  known ??= readBuild();
  return known;
}

/** What `--version` prints: the lines of nydusd's, in its form. */
export function versionText(info: BuildInfo = buildInfo()): string {
  return [
    `erofsd-nydusd Version: \t${info.package_ver}`,
    `Git Commit: \t${info.git_commit}`,
    `Build Time: \t${info.build_time}`,
    `Profile: \t${info.profile}`,
    `Rustc: \t\t${info.rustc}`,
    "",
    "",
  ].join("\n");
}

function readBuild(): BuildInfo {
  const root = packageRoot();
  const manifest = new URL("package.json", root);
  const programs = new URL(`${partOf(root)}/`, root);
  return {
    package_ver: `v${versionOf(readFileSync(manifest, "utf8"))}`,
    git_commit: commitOf(root, programs),
    build_time: statSync(fileURLToPath(import.meta.url)).mtime.toISOString(),
    profile: "release",
    rustc: `none (Node.js ${process.version})`,
  };
}

/** The package's directory; platform/package-root.ts knows it too, but loads a schema library. */
function packageRoot(): URL {
  let directory = new URL("./", import.meta.url);
  while (!existsSync(new URL("package.json", directory))) {
    const parent = new URL("../", directory);
    if (parent.href === directory.href) throw new Error("package.json of erofsd is missing");
    directory = parent;
  }
  return directory;
}

/** `dist` where it is installed, `src` where it is worked on. */
function partOf(root: URL): string {
  return import.meta.url.slice(root.href.length).split("/")[0] ?? "dist";
}

function versionOf(manifest: string): string {
  const parsed: unknown = JSON.parse(manifest);
  const isManifest = typeof parsed === "object" && parsed !== null && "version" in parsed;
  return isManifest ? String(parsed.version) : "0";
}

function commitOf(root: URL, programs: URL): string {
  const stamp = new URL(STAMP, programs);
  if (existsSync(stamp)) return readFileSync(stamp, "utf8").trim();
  // 40 digits, as a commit has.
  const hash = createHash("sha1");
  for (const directory of [programs, new URL("native/src/", root)]) {
    for (const name of filesIn(directory)) {
      hash.update(`${name}\0`).update(readFileSync(new URL(name, directory)));
    }
  }
  return hash.update(readFileSync(new URL("package.json", root))).digest("hex");
}

function filesIn(directory: URL): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(ts|js|mjs|cjs|cc|h)$/.test(name))
    .toSorted();
}
