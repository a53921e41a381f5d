// SPDX-License-Identifier: Apache-2.0
// The files of a known image as lines of JSON, a piece of them at a time.

import { type ImageFilesParts, imageFiles } from "../flow/image-files.ts";
import { KIB } from "../units.ts";
import type { ControlOperations } from "./control-operations.ts";
import type { KnownImages } from "./known-images.ts";
import type { FileLine } from "./schema.ts";

const PIECE_LENGTH = 32 * KIB;

export function imageFilesOf(
  images: Pick<KnownImages, "find">,
  parts: ImageFilesParts,
): ControlOperations["imageFiles"] {
  return (name, signal) => pieces(parts, images.find(name).binding, signal);
}

async function* pieces(
  parts: ImageFilesParts,
  binding: Parameters<typeof imageFiles>[1],
  signal: AbortSignal,
): AsyncGenerator<string, void> {
  const line = (value: FileLine): string => `${JSON.stringify(value)}\n`;
  let text = "";
  for await (const { path: file, extents } of imageFiles(parts, binding, signal)) {
    text += line({
      file,
      parts: extents.map(({ device, offset, length }) => [device, offset, length]),
    });
    if (text.length < PIECE_LENGTH) continue;
    yield text;
    text = "";
  }
  yield text + line({ end: true });
}
