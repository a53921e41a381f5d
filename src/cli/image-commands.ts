// SPDX-License-Identifier: Apache-2.0
// `erofsd images`, `inspect` and `ps`: what the daemon knows, and what of it is mounted here.

import { ask } from "../control/client.ts";
import { type ImageDetail, imageDetail, imagesAnswer } from "../control/image-schema.ts";
import { mountsAnswer } from "../control/mount-schema.ts";
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

/** Prints what is mounted, and what is about to be. Faults as `ask`. */
export async function psCommand(given: Given, output: Output = process.stdout): Promise<void> {
  const asked = { method: "GET", path: "/v1/mounts", answer: mountsAnswer } as const;
  const { mounts } = await ask(given.socketPath, asked);
  if (given.json) {
    output.write(jsonLine({ mounts }));
    return;
  }
  const style = styleOf(output);
  const rows = mounts.map((one) => {
    const { sizeBytes, cachedBytes, state, progress } = one;
    const isKnown = sizeBytes !== undefined && cachedBytes !== undefined;
    const soon = progress === undefined ? state : share(progress.doneBytes, progress.totalBytes);
    return [
      one.mountPoint,
      one.reference ?? "-",
      one.door ?? "-",
      one.deviceCount === undefined ? "-" : String(one.deviceCount),
      sizeBytes === undefined ? "-" : size(sizeBytes),
      state === "preparing" ? soon : isKnown ? share(cachedBytes, sizeBytes) : "-",
      one.manifestDigest === undefined ? "-" : shortDigest(one.manifestDigest, style),
    ];
  });
  const headings = ["MOUNT POINT", "REFERENCE", "DOOR", "DEVICES", "SIZE", "CACHED", "MANIFEST"];
  output.write(table(headings, rows, style));
}

function askImages(socketPath: string) {
  return ask(socketPath, { method: "GET", path: "/v1/images", answer: imagesAnswer });
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
