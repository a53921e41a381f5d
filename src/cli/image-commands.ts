// SPDX-License-Identifier: Apache-2.0
// `erofsd images`, `inspect` and `ps`: what the daemon knows, and what of it is mounted here.

import { ask } from "../control/client.ts";
import {
  type ImageDetail,
  type ImageSummary,
  imageDetail,
  imagesAnswer,
} from "../control/image-schema.ts";
import type { MountEntry } from "../kernel/mount.ts";
import {
  type Output,
  type Style,
  jsonLine,
  printable,
  share,
  shortDigest,
  size,
  styleOf,
  table,
} from "./output.ts";

interface Given {
  readonly socketPath: string;
  readonly json: boolean;
}

/** Prints the images that can be mounted. Faults as `ask`. */
export async function imagesCommand(given: Given, output: Output = process.stdout): Promise<void> {
  const { images } = await askImages(given.socketPath);
  if (given.json) {
    output.write(jsonLine({ images }));
    return;
  }
  const style = styleOf(output);
  const rows = images.map((image) => [
    image.reference,
    shortDigest(image.manifestDigest, style),
    image.format,
    size(image.sizeBytes),
    share(image.cachedBytes, image.sizeBytes),
    image.open ? "yes" : "no",
    shortDigest(image.fsid, style),
  ]);
  const headings = ["REFERENCE", "MANIFEST", "FORMAT", "SIZE", "CACHED", "OPEN", "FSID"];
  output.write(table(headings, rows, style));
}

/** Prints all that is known of one image. Faults as `ask`, image_unknown among them. */
export async function inspectCommand(
  given: Given & { readonly name: string },
  output: Output = process.stdout,
): Promise<void> {
  const path = `/v1/images/${encodeURIComponent(given.name)}`;
  const image = await ask(given.socketPath, { method: "GET", path, answer: imageDetail });
  output.write(given.json ? jsonLine(image) : describeImage(image, styleOf(output)));
}

/** Prints the mounts of this mount namespace, with what the daemon knows of each. */
export async function psCommand(
  given: Given,
  output: Output = process.stdout,
  listMounts: () => Promise<readonly MountEntry[]> = mountsHere,
): Promise<void> {
  const { images } = await askImages(given.socketPath);
  const mounts = mountsOf(await listMounts(), images);
  if (given.json) {
    output.write(jsonLine({ mounts }));
    return;
  }
  const style = styleOf(output);
  const rows = mounts.map(({ mountPoint, fsid, image }) => [
    mountPoint,
    image?.reference ?? "-",
    image === undefined ? "-" : size(image.sizeBytes),
    image === undefined ? "-" : share(image.cachedBytes, image.sizeBytes),
    shortDigest(fsid, style),
  ]);
  output.write(table(["MOUNT POINT", "REFERENCE", "SIZE", "CACHED", "FSID"], rows, style));
}

function askImages(socketPath: string) {
  return ask(socketPath, { method: "GET", path: "/v1/images", answer: imagesAnswer });
}

/** Loaded late: mounting needs a compiled library. */
async function mountsHere(): Promise<readonly MountEntry[]> {
  const { listMounts } = await import("../kernel/mount.ts");
  return listMounts();
}

/** EROFS mounts over fscache, each with its image, where this daemon serves it. */
function mountsOf(entries: readonly MountEntry[], images: readonly ImageSummary[]) {
  const keyOf = (fsid: string, domainId: string | undefined) => `${domainId ?? ""}\0${fsid}`;
  const known = new Map(images.map((image) => [keyOf(image.fsid, image.domainId), image]));
  return entries.flatMap(({ mountPoint, fsType, superOptions }) => {
    const option = (name: string): string | undefined =>
      superOptions.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1);
    const fsid = option("fsid");
    if (fsType !== "erofs" || fsid === undefined) return [];
    const domainId = option("domain_id");
    const image = known.get(keyOf(fsid, domainId));
    return [{ mountPoint, fsid, ...(domainId === undefined ? {} : { domainId }), image }];
  });
}

function describeImage(image: ImageDetail, style: Style): string {
  const state = `${image.open ? "open" : "not open"}${image.unbound ? ", not to be mounted anew" : ""}`;
  const facts: [string, string][] = [
    ["reference", image.reference],
    ["fsid", image.fsid],
    ["domain id", image.domainId ?? "-"],
    ["manifest", image.manifestDigest],
    ["format", image.format],
    ["state", state],
    ["size", size(image.sizeBytes)],
    ["cached", `${size(image.cachedBytes)} (${share(image.cachedBytes, image.sizeBytes)})`],
  ];
  const failure = image.lastFailure;
  const lines = facts.map(([name, value]) => `${name.padEnd(10)} ${printable(value)}\n`);
  if (failure !== undefined) {
    lines.push(`${"failed".padEnd(10)} ${style.bad(printable(failure.message))} (${failure.at})\n`);
  }
  const rows = image.streams.map((stream) => [
    stream.role,
    size(stream.sizeBytes),
    share(stream.cachedBytes, stream.sizeBytes),
    String(stream.reads),
    String(stream.failedReads),
    size(stream.fetchedBytes),
    shortDigest(stream.digest, style),
    stream.origin,
  ]);
  const headings = ["STREAM", "SIZE", "CACHED", "READS", "FAILED", "FETCHED", "DIGEST", "FROM"];
  return `${lines.join("")}\n${table(headings, rows, style)}`;
}
