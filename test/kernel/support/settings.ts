// SPDX-License-Identifier: Apache-2.0
// What this run was started with: main TIER IMAGES.

import { describe, test } from "node:test";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { release } from "node:os";

/** `full`: everything. `cut`: for an emulated processor. `smoke`: one image, on another disk. */
export type Tier = "full" | "cut" | "smoke";

const [tierWord, imagesWord] = process.argv.slice(2);

export const TIER: Tier = tierWord === "cut" || tierWord === "smoke" ? tierWord : "full";
export const IMAGES_ROOT = imagesWord ?? "";
/** JavaScript is this much slower on an emulated processor; stretches every deadline. */
export const SLOWNESS = TIER === "cut" ? 15 : 1;
export const PROGRAM = new URL("dist/cli/erofsd.js", findPackageRoot()).pathname;
/** On the disk of the guest: ext4 or xfs. */
export const DISK = "/mnt/disk";
export const DOMAIN = "erofsd";

const [, major, minor] = /^(\d+)\.(\d+)/.exec(release()) ?? [];
/** EROFS over fscache reads compressed files since 6.9. */
export const READS_COMPRESSED = Number(major) * 1000 + Number(minor) >= 6009;

/** A test that is only there in the full tier. */
export function fullTest(
  name: string,
  options: { timeout: number },
  run: () => void | Promise<void>,
): void {
  if (TIER === "full") void test(name, options, run);
}

/** Tests that are there in every tier but the smoke test. */
export function beyondSmoke(name: string, define: () => void): void {
  if (TIER !== "smoke") void describe(name, define);
}

/** Tests that are only there in the full tier, as they ask nothing of the kernel in particular. */
export function fullOnly(name: string, define: () => void): void {
  if (TIER === "full") void describe(name, define);
}
