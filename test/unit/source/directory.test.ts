// SPDX-License-Identifier: Apache-2.0
import { execFile } from "node:child_process";
import { mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { systemClock } from "../../../src/platform/clock.ts";
import { createDirectorySource } from "../../../src/source/directory.ts";
import { type Origin, formatOrigin } from "../../../src/source/source.ts";
import { faultFrom } from "../../support/faults.ts";
import { digestOf } from "../../support/oci-image.ts";
import { tempDir } from "../../support/temp-dir.ts";

const CONTENT = new Uint8Array(5_000).fill(9);
const DIGEST = digestOf(CONTENT);
const HEX = DIGEST.slice("sha256:".length);
const source = createDirectorySource({ clock: systemClock });

function originOf(repository: string): Origin {
  return { kind: "directory", host: "directory", repository };
}

async function read(origin: Origin, size: number | undefined = CONTENT.length): Promise<Buffer> {
  const pieces: Buffer[] = [];
  const options = {
    signal: new AbortController().signal,
    deadlineMs: systemClock.nowMs() + 9_000,
  };
  const blob = { origin, digest: DIGEST, size };
  const extent = { offset: 1_000, length: 2_000 };
  await source.readRange(blob, extent, (piece) => pieces.push(Buffer.from(piece)), options);
  return Buffer.concat(pieces);
}

it("follows a symbolic link: the operator named the directory", async () => {
  const folder = await tempDir();
  await mkdir(join(folder, "blobs"));
  await writeFile(join(folder, "elsewhere"), CONTENT);
  await symlink(join(folder, "elsewhere"), join(folder, "blobs", HEX));
  expect(await read(originOf(join(folder, "blobs")))).toHaveLength(2_000);
});

it("takes the one file it is given for whatever blob is asked for", async () => {
  const folder = await tempDir();
  const blobFile = join(folder, "data.blob");
  await writeFile(blobFile, CONTENT);
  expect(await read({ ...originOf(folder), blobFile })).toHaveLength(2_000);
  expect((await faultFrom(read({ ...originOf(folder), blobFile }, 5_001))).code).toBe(
    "blob_truncated",
  );
});

it("refuses what is not a regular file, without waiting for a writer", async () => {
  const folder = await tempDir();
  await promisify(execFile)("mkfifo", [join(folder, HEX)]);
  const path = join(folder, HEX);
  expect(await faultFrom(read(originOf(folder)))).toMatchObject({ code: "directory_failed", path });
  await rm(path);
  await mkdir(path);
  expect(await faultFrom(read(originOf(folder)))).toMatchObject({ code: "directory_failed", path });
});

it("names its origin", () => {
  expect(formatOrigin(originOf("/srv/blobs"))).toBe("directory:/srv/blobs");
  expect(formatOrigin({ ...originOf("/srv"), blobFile: "/srv/a.blob" })).toBe(
    "directory:/srv/a.blob",
  );
});
