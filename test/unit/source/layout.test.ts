// SPDX-License-Identifier: Apache-2.0
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Fault } from "../../../src/errors.ts";
import { systemClock } from "../../../src/platform/clock.ts";
import { createLayoutSource } from "../../../src/source/layout.ts";
import type { FetchedManifest, Origin } from "../../../src/source/source.ts";
import type { Digest } from "../../../src/units.ts";
import { faultFrom } from "../../support/faults.ts";
import { buildImage, digestOf, writeLayout } from "../../support/oci-image.ts";

const LAYER = { bytes: new Uint8Array(10_000).fill(7), mediaType: "application/vnd.erofs" };
const image = buildImage([LAYER]);
const other = buildImage([LAYER], { annotations: { other: "yes" } });
const tag = (name: string) => ({ annotations: { "org.opencontainers.image.ref.name": name } });
const source = createLayoutSource({ clock: systemClock });

let folder: string;
let root: string;
let origin: Origin;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "erofsd-layout-"));
  root = join(folder, "image");
  origin = { kind: "layout", host: "oci", repository: root };
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

function write(...manifests: readonly object[]): Promise<void> {
  return writeLayout(root, { blobs: [image.manifest, other.manifest, LAYER], manifests });
}

const options = () => ({
  signal: new AbortController().signal,
  deadlineMs: systemClock.nowMs() + 9_000,
});

function fetch(wanted: string): Promise<FetchedManifest> {
  return source.fetchManifest(origin, wanted, options());
}

function readFault(digest: Digest = digestOf(LAYER.bytes)): Promise<Fault> {
  const blob = { origin, digest, size: LAYER.bytes.length };
  return faultFrom(source.readRange(blob, { offset: 0, length: 10 }, () => undefined, options()));
}

function blobPath(digest: Digest): string {
  return join(root, "blobs", "sha256", digest.slice("sha256:".length));
}

describe("choosing a manifest", () => {
  it("goes by tag", async () => {
    await write({ ...image.descriptor, ...tag("v1") }, { ...other.descriptor, ...tag("v2") });
    expect((await fetch("v2")).digest).toBe(other.descriptor.digest);
  });

  it("without a tag needs there to be one", async () => {
    await write(image.descriptor);
    expect((await fetch("")).digest).toBe(image.descriptor.digest);
    await write({ ...image.descriptor, ...tag("v1") }, { ...other.descriptor, ...tag("v2") });
    expect(await faultFrom(fetch(""))).toEqual({
      code: "layout_failed",
      path: root,
      detail: "it holds 2 manifests; write one of its tags: v1, v2",
    });
    await write();
    expect((await faultFrom(fetch(""))).code).toBe("layout_failed");
  });

  it("that two entries share is refused", async () => {
    await write({ ...image.descriptor, ...tag("v1") }, { ...other.descriptor, ...tag("v1") });
    expect((await faultFrom(fetch("v1"))).code).toBe("layout_failed");
  });

  it("by digest need not be listed", async () => {
    await write();
    expect((await fetch(image.descriptor.digest)).bytes).toEqual(image.manifest.bytes);
  });
});

describe("a layout that is damaged", () => {
  it.each<[string, () => Promise<void>, Fault["code"]]>([
    ["is not there", () => rm(root, { recursive: true }), "layout_failed"],
    ["has no oci-layout", () => rm(join(root, "oci-layout")), "layout_failed"],
    [
      "is of another version",
      () => writeFile(join(root, "oci-layout"), '{"imageLayoutVersion":"2.0.0"}'),
      "layout_failed",
    ],
    ["has no index", () => rm(join(root, "index.json")), "layout_failed"],
    [
      "has an index that is no JSON",
      () => writeFile(join(root, "index.json"), "{"),
      "manifest_invalid",
    ],
    ["has an endless index", () => truncate(join(root, "index.json"), 5_000_000), "layout_failed"],
    ["lacks the manifest", () => rm(blobPath(image.descriptor.digest)), "manifest_not_found"],
    [
      "holds another manifest",
      () => writeFile(blobPath(image.descriptor.digest), "{}"),
      "digest_mismatch",
    ],
  ])("%s says so", async (_, damage, code) => {
    await write(image.descriptor);
    await damage();
    expect((await faultFrom(fetch(""))).code).toBe(code);
  });

  it("whose blob was cut names both sizes", async () => {
    await write(image.descriptor);
    await truncate(blobPath(digestOf(LAYER.bytes)), 4096);
    expect(await readFault()).toMatchObject({
      code: "blob_truncated",
      detail: "4096 bytes stored, 10000 by its manifest",
    });
  });

  it("whose blob is a directory or a FIFO is refused, without waiting for a writer", async () => {
    await write(image.descriptor);
    const path = blobPath(digestOf(LAYER.bytes));
    await rm(path);
    await mkdir(path);
    expect((await readFault()).code).toBe("layout_failed");
    await rm(path, { recursive: true });
    await promisify(execFile)("mkfifo", [path]);
    expect((await readFault()).code).toBe("layout_failed");
  });
});

describe("leaving the directory", () => {
  it("by a link from a blob is refused", async () => {
    await write(image.descriptor);
    const path = blobPath(digestOf(LAYER.bytes));
    await rm(path);
    await writeFile(join(folder, "outside"), LAYER.bytes);
    await symlink(join(folder, "outside"), path);
    expect((await readFault()).code).toBe("layout_failed");
  });

  it("by a link from a directory is refused, one within is not", async () => {
    await write(image.descriptor);
    const inside = join(root, "blobs");
    await promisify(execFile)("mv", [inside, join(folder, "blobs")]);
    await symlink(join(folder, "blobs"), inside);
    expect((await readFault()).code).toBe("layout_failed");
    await rm(inside);
    await promisify(execFile)("mv", [join(folder, "blobs"), join(root, "store")]);
    await symlink("store", inside);
    expect((await fetch("")).digest).toBe(image.descriptor.digest);
  });
});

it("reads nothing after it was closed", async () => {
  await write(image.descriptor);
  const closed = createLayoutSource({ clock: systemClock });
  await closed.close();
  const work = closed.fetchManifest(origin, "", options());
  expect(await faultFrom(work)).toEqual({ code: "stopping" });
});
