// SPDX-License-Identifier: Apache-2.0
// Makes the kernel tests' images on the host, once: trees, mkfs.erofs, a registry's storage, and
// a catalogue of it all. make-images DIRECTORY.

import { createHash } from "node:crypto";
import { appendFile, copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32c } from "../../../src/image/erofs/crc32c.ts";
import { SUPERBLOCK_HEAD_BYTES, parseSuperblock } from "../../../src/image/erofs/superblock.ts";
import { EROFS, ROLE_ANNOTATION } from "../../../src/image/oci/media-types.ts";
import { KIB } from "../../../src/units.ts";
import { startDockerRegistry } from "../../support/docker-registry.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { type PushLayer, pushImage } from "../../support/push.ts";
import { CATALOGUE_FILE, type TestImage } from "./catalogue.ts";
import {
  writeEqualSizedTree,
  writeLargeTree,
  writeSequentialTree,
  writeSmallTree,
} from "./trees.ts";

const DEVICE_SLOT_BYTES = 128;
const SUPERBLOCK_OFFSET = 1024;
const CHECKSUM_OFFSET = SUPERBLOCK_OFFSET + 4;
const CHUNKS = `--chunksize=${64 * KIB}`;

interface Recipe {
  readonly name: string;
  readonly tree: string;
  readonly args?: readonly string[];
  /** Data goes to a device of its own, whose slot is left unnamed or is named by digest. */
  readonly device?: "unnamed" | "named";
  /** Bytes after the end of the file system: the blob is not a multiple of a block. */
  readonly padBytes?: number;
  readonly keepFile?: boolean;
  readonly large?: boolean;
}

const RECIPES: readonly Recipe[] = [
  { name: "plain", tree: "small", args: ["-Enoinline_data"], keepFile: true },
  { name: "inline", tree: "small", padBytes: 1234, keepFile: true },
  { name: "chunks", tree: "small", args: [CHUNKS] },
  { name: "lz4", tree: "small", args: ["-zlz4hc"] },
  { name: "device-unnamed", tree: "small", args: [CHUNKS], device: "unnamed" },
  { name: "device-named", tree: "small", args: [CHUNKS], device: "named", keepFile: true },
  // The same data: its device is the very blob of the image before.
  {
    name: "device-twin",
    tree: "small",
    args: [CHUNKS, "-U11111111-0000-4000-8000-000000000000"],
    device: "named",
  },
  { name: "large", tree: "large", large: true },
  { name: "large-device", tree: "large", args: [CHUNKS], device: "named", large: true },
  { name: "sequential", tree: "sequential", large: true },
  { name: "equal-a", tree: "equal-a", keepFile: true },
  { name: "equal-b", tree: "equal-b" },
];

const [root = ""] = process.argv.slice(2);
await mkdir(join(root, "files"), { recursive: true });
await writeSmallTree(join(root, "trees/small"));
await writeLargeTree(join(root, "trees/large"));
await writeSequentialTree(join(root, "trees/sequential"));
await writeEqualSizedTree(join(root, "trees/equal-a"), "a");
await writeEqualSizedTree(join(root, "trees/equal-b"), "b");

const registry = await startDockerRegistry({ storage: join(root, "registry") });
const images: TestImage[] = [];
try {
  for (const recipe of RECIPES) images.push(await make(recipe));
} finally {
  await registry.stop();
}
const sizes = ["equal-a", "equal-b"].map(
  (name) => images.find((image) => image.name === name)?.layers[0]?.size,
);
if (sizes[0] !== sizes[1]) throw new Error(`the equal images are not: ${sizes.join(", ")}`);
await writeFile(join(root, CATALOGUE_FILE), JSON.stringify(images, undefined, 2));

async function make(recipe: Recipe): Promise<TestImage> {
  const { name, tree, device } = recipe;
  const file = join(root, "files", `${name}.erofs`);
  const deviceFile = join(root, "files", `${name}.device`);
  const args = [...(recipe.args ?? [])];
  if (device !== undefined) args.push(`--blobdev=${deviceFile}`);
  await mkfsErofs(file, join(root, "trees", tree), args);
  if (device === "named") await nameDevice(file, deviceFile);
  if (recipe.padBytes !== undefined) await appendFile(file, Buffer.alloc(recipe.padBytes, "pad"));
  const layers: PushLayer[] = [{ body: { path: file }, mediaType: EROFS }];
  if (device !== undefined) {
    const annotations = { [ROLE_ANNOTATION]: "device" };
    layers.unshift({
      body: { path: deviceFile },
      mediaType: "application/octet-stream",
      annotations,
    });
  }
  const target = { host: registry.host, repository: `test/${name}` };
  const pushed = await pushImage(target, "v1", layers);
  // One repository with both equal images, so that a tag can be moved from one to the other.
  if (tree.startsWith("equal-")) {
    await pushImage({ ...target, repository: "test/equal" }, tree, layers);
  }
  const kept = recipe.keepFile === true ? `files/kept-${name}.erofs` : undefined;
  if (kept !== undefined) await copyFile(file, join(root, kept));
  await rm(file);
  await rm(deviceFile, { force: true });
  return {
    name,
    repository: target.repository,
    tag: "v1",
    tree: `trees/${tree}`,
    ...(kept === undefined ? {} : { file: kept }),
    layers: pushed.layers.map(({ digest, size }) => ({ digest, size })),
    bareMount: device !== "unnamed",
    compressed: args.some((arg) => arg.startsWith("-z")),
    large: recipe.large === true,
  };
}

/** Writes the device's digest into the first slot's tag, and the superblock's checksum anew. */
async function nameDevice(file: string, deviceFile: string): Promise<void> {
  const bytes = await readFile(file);
  const { deviceTable } = parseSuperblock(bytes, file);
  if (deviceTable?.length !== DEVICE_SLOT_BYTES) throw new Error(`${file} has not one device`);
  const hex = createHash("sha256")
    .update(await readFile(deviceFile))
    .digest("hex");
  bytes.write(hex, deviceTable.offset, "latin1");
  const block = bytes.subarray(SUPERBLOCK_OFFSET, SUPERBLOCK_HEAD_BYTES);
  bytes.writeUInt32LE(0, CHECKSUM_OFFSET);
  bytes.writeUInt32LE(crc32c(0xffffffff, block), CHECKSUM_OFFSET);
  await writeFile(file, bytes);
}
