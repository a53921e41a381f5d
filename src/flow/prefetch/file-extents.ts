// SPDX-License-Identifier: Apache-2.0
// What it takes to read files of an image, wherever it lies: their blocks, compressed or not, what
// lies with their inodes, and of the packed file what their ends are in.

import { BlockSet } from "../../cache/block-set.ts";
import { compressedParts, isCompressed } from "../../image/erofs/compressed.ts";
import {
  type DeviceExtent,
  type ErofsReader,
  type Inode,
  LAYOUT_CHUNKS,
  extentsOf,
} from "../../image/erofs/inode.ts";
import { type MetadataPlaces, inodeExtents } from "../../image/erofs/metadata.ts";
import { invalid } from "../../image/rafs/fields.ts";
import { BLOCK_BYTES, type Extent, alignDown, alignUp } from "../../units.ts";

/** A set of so many bytes' blocks takes 32 MiB. */
const PACKED_BYTES_MAX = 2 ** 40;

/**
 * Extents of the files `nids`, in no order; some come twice, or end a little beyond the image.
 * `places` is left out of a bootstrap, which is wanted whole. Fault: image_invalid.
 */
export async function* fileExtents(
  reader: ErofsReader,
  nids: AsyncIterable<number>,
  places?: MetadataPlaces,
): AsyncGenerator<DeviceExtent, void> {
  const packed = new PackedFile(reader, places);
  for await (const nid of nids) {
    const inode = await reader.inode(nid);
    yield* besideInode(reader, inode, places);
    if (!isCompressed(inode)) {
      yield* extentsOf(reader, nid);
      continue;
    }
    for await (const part of compressedParts(reader, inode)) {
      if (part.extent !== undefined) yield part.extent;
      if (part.packed !== undefined) await packed.want(part.packed);
    }
  }
  yield* packed.wanted();
}

async function* besideInode(
  reader: ErofsReader,
  inode: Inode,
  places: MetadataPlaces | undefined,
): AsyncGenerator<DeviceExtent, void> {
  if (places === undefined) return;
  for await (const extent of inodeExtents(reader, inode, places)) yield { device: 0, ...extent };
}

/** Its indexes are long: what is wanted of it is found in one go. */
class PackedFile {
  readonly #reader: ErofsReader;
  readonly #places: MetadataPlaces | undefined;
  #inode: Inode | undefined;
  /** Of its own bytes. */
  #set = new BlockSet(0);

  constructor(reader: ErofsReader, places: MetadataPlaces | undefined) {
    this.#reader = reader;
    this.#places = places;
  }

  async want(own: Extent): Promise<void> {
    const nid = this.#places?.packedNid;
    if (nid === undefined) {
      const detail = "ends of its files are packed, and it has no file that they are packed into";
      throw invalid(this.#reader.file.where, detail);
    }
    if (this.#inode === undefined) {
      this.#inode = await this.#reader.inode(nid);
      const { sizeBytes } = this.#inode;
      if (sizeBytes > PACKED_BYTES_MAX) {
        throw invalid(this.#reader.file.where, `its packed file has ${sizeBytes} bytes`);
      }
      this.#set = new BlockSet(sizeBytes);
    }
    this.#set.add(inBlocks(own));
  }

  async *wanted(): AsyncGenerator<DeviceExtent, void> {
    const inode = this.#inode;
    if (inode === undefined) return;
    yield* besideInode(this.#reader, inode, this.#places);
    if (isCompressed(inode)) {
      for await (const { own, extent } of compressedParts(this.#reader, inode)) {
        const isWanted = this.#set.present(inBlocks(own)).length > 0;
        if (extent !== undefined && isWanted) yield extent;
      }
    } else if (inode.layout === LAYOUT_CHUNKS) {
      yield* extentsOf(this.#reader, inode.nid);
    } else {
      for await (const flat of extentsOf(this.#reader, inode.nid)) {
        for (const { offset, length } of this.#set.present({ offset: 0, length: flat.length })) {
          yield { device: flat.device, offset: flat.offset + offset, length };
        }
      }
    }
  }
}

function inBlocks({ offset, length }: Extent): Extent {
  const from = alignDown(offset, BLOCK_BYTES);
  return { offset: from, length: alignUp(offset + length, BLOCK_BYTES) - from };
}
