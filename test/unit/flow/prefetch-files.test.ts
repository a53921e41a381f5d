// SPDX-License-Identifier: Apache-2.0
// The prefetch table of a real bootstrap, read from its file.

import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { prefetchTableExtents } from "../../../src/flow/prefetch/files.ts";
import type { DeviceExtent } from "../../../src/image/erofs/inode.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { FIXTURE_IMAGES, parseFixture, readFixture } from "../../support/rafs-fixtures.ts";

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-prefetch-"));
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function extentsIn(path: string): Promise<DeviceExtent[]> {
  const found: DeviceExtent[] = [];
  for await (const extent of prefetchTableExtents(path)) found.push(extent);
  return found;
}

function sum(extents: readonly DeviceExtent[]): number {
  return extents.reduce((total, { length }) => total + length, 0);
}

describe("a prefetch table", () => {
  it.each(FIXTURE_IMAGES)("of %s gives parts of its devices, in few pieces", async (name) => {
    const { bootstrap: bytes } = readFixture(name);
    const path = join(folder, name);
    await writeFile(path, bytes);
    const { deviceBlocks, prefetchTable } = parseFixture(bytes).bootstrap;
    const extents = await extentsIn(path);
    // A directory image has no table; nydusify writes the root, so all files, unless told.
    expect(extents.length > 0).toBe(prefetchTable.length > 0);
    for (const { device, offset, length } of extents) {
      expect(offset + length).toBeLessThanOrEqual((deviceBlocks[device - 1] ?? 0) * 4096);
    }
    if (name === "nydus-prefetch") expect(sum(extents)).toBeLessThan(200_000);
    expect(extents.length).toBeLessThan(60);
  });

  it("of a file that is cut, or gone, is a fault", async () => {
    const path = join(folder, "cut");
    await writeFile(path, readFixture("nydus-prefetch").bootstrap);
    await truncate(path, 8192);
    expect(await rejectionOf(extentsIn(path))).toBe("image_invalid");
    expect(await rejectionOf(extentsIn(join(folder, "gone")))).toBe("image_invalid");
  });
});
