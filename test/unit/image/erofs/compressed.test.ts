// SPDX-License-Identifier: Apache-2.0
// Where compressed files lie, as mkfs.erofs puts them and dump.erofs tells of each.

import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { storedExtents } from "../../../../src/image/erofs/compressed.ts";
import { namedFiles } from "../../../../src/image/erofs/file-paths.ts";
import { ErofsReader } from "../../../../src/image/erofs/inode.ts";
import { metadataPlaces } from "../../../../src/image/erofs/metadata.ts";
import { parseSuperblock } from "../../../../src/image/erofs/superblock.ts";
import { BLOCK_BYTES } from "../../../../src/units.ts";
import { mkfsErofs, writeTree } from "../../../support/mkfs.ts";
import { seededRandom } from "../../../support/seeded-random.ts";
import { tempDir } from "../../../support/temp-dir.ts";

const run = promisify(execFile);

/** Of sizes around those of blocks and index packs, of what compresses well, badly, and not at all. */
async function made(args: readonly string[]): Promise<{ path: string; image: Buffer }> {
  const home = await tempDir();
  const tree = await writeTree(home);
  const random = seededRandom(7);
  const noise = (bytes: number): Buffer =>
    Buffer.from(Array.from({ length: bytes }, () => random.between(0, 255)));
  const text = await readFile(join(tree, "text"));
  for (const blocks of [1, 2, 7, 9, 16, 17, 40, 200]) {
    await writeFile(join(tree, `noise-${blocks}`), noise(blocks * BLOCK_BYTES - 5));
    await writeFile(join(tree, `text-${blocks}`), Buffer.alloc(blocks * BLOCK_BYTES + 9, text));
    const parts = Array.from({ length: blocks }, (_, n) =>
      n % 3 === 0 ? noise(5000 + n) : text.subarray(n * 1000, n * 1000 + random.between(0, 30_000)),
    );
    await writeFile(join(tree, `mixed-${blocks}`), Buffer.concat(parts));
  }
  await mkdir(join(tree, "large"));
  await writeFile(join(tree, "large", "text"), Buffer.alloc(9 << 20, text));
  const path = join(home, "image");
  await mkfsErofs(path, tree, args);
  return { path, image: await readFile(path) };
}

function readerOf(image: Buffer, sizeBytes = image.length): [ErofsReader, number] {
  const head = image.subarray(0, BLOCK_BYTES);
  const { metaBlock, rootNid } = metadataPlaces(head, parseSuperblock(head, "test"), "test");
  const readAt = (offset: number, length: number): Promise<Uint8Array> =>
    Promise.resolve(image.subarray(offset, offset + length));
  return [
    new ErofsReader({ readAt, sizeBytes, metaBlock, deviceBlocks: [], where: "test" }),
    rootNid,
  ];
}

async function blocksOf(reader: ErofsReader, nid: number): Promise<number[]> {
  const blocks: number[] = [];
  for await (const { device, offset, length } of storedExtents(reader, nid)) {
    expect(device).toBe(0);
    for (let at = offset; at < offset + length; at += BLOCK_BYTES) blocks.push(at / BLOCK_BYTES);
  }
  return blocks;
}

/** The blocks that dump.erofs has of it; what lies inside the inode or is packed is not among them. */
async function dumped(image: string, path: string): Promise<number[]> {
  const { stdout } = await run("dump.erofs", ["-e", `--path=${path}`, image]);
  return [...stdout.matchAll(/^ *\d+: .*\| *\d+ : *(\d+)\.\. *(\d+) \|/gm)].flatMap(
    ([, from = "", to = ""]) => {
      const blocks: number[] = [];
      if (Number(from) % BLOCK_BYTES !== 0) return blocks;
      for (let at = Number(from); at < Number(to); at += BLOCK_BYTES) blocks.push(at / BLOCK_BYTES);
      return blocks;
    },
  );
}

/** What the mkfs.erofs of this machine can do; erofs-utils 1.8 all of it. */
const help = await run("mkfs.erofs", ["--help"]).then(({ stdout, stderr }) => stdout + stderr);
const newer = [
  ["-zlz4hc -C32768 -Efragments"],
  ["-zlz4hc -C32768 -Ededupe"],
  ["-zlz4hc -Ededupe,fragments,ztailpacking"],
  ["-zzstd -C131072"],
  ["-zdeflate -C65536 -Elegacy-compress"],
  ["-zlzma -C65536 -Eztailpacking"],
].filter(() => /\bzstd\b/.test(help));

test.each([
  ["-zlz4"],
  ["-zlz4hc"],
  ["-zlz4hc -C65536"],
  ["-zlz4 -C16384"],
  ["-zlz4 -Elegacy-compress"],
  ["-zlz4hc -C65536 -Elegacy-compress"],
  ["-zlz4hc -C32768 -Eztailpacking"],
  ["-zlz4hc -Eztailpacking"],
  ...newer,
])(
  "files of %s lie where dump.erofs finds them",
  async (options) => {
    const { path, image } = await made(options.split(" "));
    const [reader, rootNid] = readerOf(image);
    let count = 0;
    for await (const file of namedFiles(reader, rootNid)) {
      const [here, there] = [await blocksOf(reader, file.nid), await dumped(path, file.path)];
      expect([file.path, here]).toEqual([file.path, there]);
      if (there.length > 0) count += 1;
    }
    expect(count).toBeGreaterThan(10);
  },
  60_000,
);
