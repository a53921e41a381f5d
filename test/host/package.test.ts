// SPDX-License-Identifier: Apache-2.0
// The Debian package as scripts/package makes it, unpacked: what is in it, that it runs where
// nothing of the checkout is, and that the same sources make the same package. Its life under
// systemd is in scripts/test-package.

import { execFile } from "node:child_process";
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findPackageRoot } from "../../src/platform/package-root.ts";
import { must } from "./support/site.ts";

const run = promisify(execFile);
const timeout = 180_000;
const root = new URL(findPackageRoot()).pathname;
const CONTROL = ["conffiles", "control", "md5sums", "postinst", "postrm", "prerm"];

let home = "";
let deb = "";
let tree = "";

const makePackage = async (out: string): Promise<string> => {
  await run(join(root, "scripts/package"), ["--out", out], { timeout });
  const [name] = (await readdir(out)).filter((file) => file.endsWith(".deb"));
  return join(out, name ?? "");
};

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "erofsd-deb-"));
  deb = await makePackage(join(home, "one"));
  tree = join(home, "tree");
  await must("dpkg-deb", ["-x", deb, tree]);
  await must("dpkg-deb", ["-e", deb, join(tree, "DEBIAN")]);
}, timeout);

afterAll(() => rm(home, { recursive: true, force: true }));

test("it says what it needs, and has what dpkg runs", async () => {
  expect((await readdir(join(tree, "DEBIAN"))).toSorted()).toEqual(CONTROL);
  const depends = await must("dpkg-deb", ["-f", deb, "Depends"]);
  for (const name of ["nodejs (>= 20.19)", "libzstd1", "liblz4-1", "zlib1g", "libc6"]) {
    expect(depends).toContain(name);
  }
  for (const script of ["postinst", "prerm", "postrm"]) {
    await must("sh", ["-n", join(tree, "DEBIAN", script)]);
  }
  expect(await readFile(join(tree, "DEBIAN/conffiles"), "utf8")).toBe("/etc/erofsd/config.toml\n");
  await must("sh", ["-c", 'cd "$1" && md5sum --quiet -c DEBIAN/md5sums', "-", tree]);
});

test("everything in it is root's, and nobody else's to write", async () => {
  const listing = (await must("dpkg-deb", ["-c", deb])).trimEnd().split("\n");
  const others = listing.filter((line) => !/^(l|.{5}-..-)\S* root\/root /.test(line));
  expect(others).toEqual([]);
  expect(listing.filter((line) => /\.(cc?|h|ts|map|gyp|o|a)$/.test(line))).toEqual([]);
});

test(
  "it runs far from the checkout: command line, completion, configuration, compiled modules",
  async () => {
    const program = join(tree, "usr/bin/erofsd");
    expect(await readFile(program, "utf8")).toMatch(/^#!\/usr\/bin\/node\n/);
    const erofsd = (...words: string[]) => must(process.execPath, [program, ...words]);
    expect(await erofsd("version")).toMatch(/^erofsd \d+\.\d+\.\d+ /);
    const completions = join(tree, "usr/share/bash-completion/completions/erofsd");
    expect(await readFile(completions, "utf8")).toBe(await erofsd("completion", "bash"));
    await erofsd("config", "check", join(tree, "etc/erofsd/config.toml"));
    // Each compiled module, and its libraries, loads.
    const modules = join(tree, "usr/lib/erofsd/node_modules");
    for (const name of ["ffi-napi", "@napi-rs/blake-hash", "pino-pretty"]) {
      await must(process.execPath, ["-e", `require(${JSON.stringify(join(modules, name))})`]);
    }
  },
  timeout,
);

test(
  "lintian has nothing to say that is not explained",
  async () => {
    // The sum is of what is overridden, too; who runs it is not the package's matter.
    const said = await must("lintian", ["--allow-root", "--display-info", deb]);
    expect(said.split("\n").filter((line) => /^[EWI]:/.test(line))).toEqual([]);
  },
  timeout,
);

test(
  "the same sources make the same package, byte for byte",
  async () => {
    const again = await makePackage(join(home, "two"));
    await must("cmp", [again, deb]);
  },
  timeout,
);
