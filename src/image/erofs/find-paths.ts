// SPDX-License-Identifier: Apache-2.0
// Files of an EROFS image by their names: paths, and globs as picomatch has them. Names are taken
// as in the image's root; symbolic links on the way of a path are followed within the image, and so
// is a link that is found itself. A directory stands for all beneath it.
// Source: fs/erofs/erofs_fs.h of Linux 6.12; path_resolution(7).

import picomatch from "picomatch";
import { BLOCK_BYTES } from "../../units.ts";
import { invalid } from "../rafs/fields.ts";
import { type ErofsReader, type Inode, LAYOUT_INLINE, LAYOUT_PLAIN, flatBytes } from "./inode.ts";
import { entriesOf, filesUnder } from "./tree.ts";

/** As many as the kernel follows in one path. */
const LINKS_MAX = 40;
const DEPTH_MAX = 2_048;

export interface NamedFiles {
  /** As in the image's root; a leading "/" may be there or not. */
  readonly paths: readonly string[];
  readonly globs: readonly string[];
}

/** Directories from the root down to, but without, the place that is spoken of. */
type Trail = readonly Inode[];

interface Place {
  readonly inode: Inode;
  readonly trail: Trail;
}

/**
 * The nids of the regular files that `wanted` names; some may come twice. `onNothing` is told of
 * each path or glob that names none, when it is known. Fault: image_invalid.
 */
export async function* namedFiles(
  reader: ErofsReader,
  rootNid: number,
  { paths, globs }: NamedFiles,
  onNothing: (name: string) => void,
): AsyncGenerator<number, void> {
  const root: Place = { inode: await reader.inode(rootNid), trail: [] };
  for (const path of paths) {
    const place = await placeOf(reader, root, partsOf(path));
    if (place === undefined) onNothing(path);
    else yield* filesUnder(reader, place.inode.nid);
  }
  for (const glob of globs) {
    let found = 0;
    for await (const nid of globbed(reader, root, glob)) {
      found += 1;
      yield nid;
    }
    if (found === 0) onNothing(glob);
  }
}

async function* globbed(
  reader: ErofsReader,
  root: Place,
  glob: string,
): AsyncGenerator<number, void> {
  const pattern = partsOf(glob).join("/");
  const { base } = picomatch.scan(pattern);
  const top = await placeOf(reader, root, partsOf(base));
  if (top === undefined) return;
  const isMatch = picomatch(pattern, { dot: true, nonegate: true });
  for await (const { path, place } of walk(reader, top, partsOf(base).join("/"))) {
    if (!isMatch(path)) continue;
    const target = await followed(reader, root, place);
    if (target !== undefined) yield* filesUnder(reader, target.inode.nid);
  }
}

/** All beneath `top` and itself, with their paths; links are not gone through. */
async function* walk(
  reader: ErofsReader,
  top: Place,
  path: string,
): AsyncGenerator<{ readonly path: string; readonly place: Place }, void> {
  if (path !== "") yield { path, place: top };
  if (top.inode.kind !== "directory") return;
  if (top.trail.length >= DEPTH_MAX) {
    throw invalid(reader.file.where, `its directories are nested more than ${DEPTH_MAX} deep`);
  }
  const trail = [...top.trail, top.inode];
  for await (const { nid, name } of entriesOf(reader, top.inode)) {
    const inode = await reader.inode(nid);
    // A tree that bites its own tail ends here.
    if (trail.some((above) => above.nid === nid)) continue;
    const below = path === "" ? textOf(name) : `${path}/${textOf(name)}`;
    yield* walk(reader, { inode, trail }, below);
  }
}

/** Undefined when there is nothing of this name. */
async function placeOf(
  reader: ErofsReader,
  from: Place,
  parts: readonly string[],
  links = { left: LINKS_MAX },
): Promise<Place | undefined> {
  let place: Place | undefined = from;
  for (const part of parts) {
    if (part === "..") {
      const inode: Inode | undefined = place.trail.at(-1);
      // The root's parent is itself.
      if (inode !== undefined) place = { inode, trail: place.trail.slice(0, -1) };
      continue;
    }
    if (place.inode.kind !== "directory") return undefined;
    const nid = await nidIn(reader, place.inode, part);
    if (nid === undefined) return undefined;
    const trail: Trail = [...place.trail, place.inode];
    place = await followed(reader, from, { inode: await reader.inode(nid), trail }, links);
    if (place === undefined) return undefined;
  }
  return place;
}

/** What a link leads to, and anything else itself; undefined when it leads nowhere. */
async function followed(
  reader: ErofsReader,
  root: Place,
  place: Place,
  links = { left: LINKS_MAX },
): Promise<Place | undefined> {
  if (place.inode.kind !== "link") return place;
  links.left -= 1;
  if (links.left < 0) return undefined;
  const target = await targetOf(reader, place.inode);
  const top = place.trail[0];
  const up = place.trail.at(-1);
  const start =
    target.startsWith("/") || up === undefined
      ? { inode: top ?? root.inode, trail: [] }
      : { inode: up, trail: place.trail.slice(0, -1) };
  return placeOf(reader, start, partsOf(target), links);
}

async function targetOf(reader: ErofsReader, inode: Inode): Promise<string> {
  const { where } = reader.file;
  const what = `its link ${inode.nid}`;
  const { layout, sizeBytes, start, end } = inode;
  if ((layout !== LAYOUT_PLAIN && layout !== LAYOUT_INLINE) || sizeBytes > BLOCK_BYTES) {
    throw invalid(where, `${what} of ${sizeBytes} bytes has layout ${layout}`);
  }
  const offset = flatBytes(inode) > 0 ? start * BLOCK_BYTES : end;
  return textOf(await reader.bytes(offset, sizeBytes, what));
}

async function nidIn(
  reader: ErofsReader,
  directory: Inode,
  wanted: string,
): Promise<number | undefined> {
  for await (const { nid, name } of entriesOf(reader, directory)) {
    if (textOf(name) === wanted) return nid;
  }
  return undefined;
}

function partsOf(path: string): string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString();
}
