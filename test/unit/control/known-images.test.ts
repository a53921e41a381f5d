// SPDX-License-Identifier: Apache-2.0
// What is cached of images that nobody has open: in the kernel's cache, and in files of our own.

import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { encodedObjectFile } from "../../../src/cache/disk-names.ts";
import { imagesAnswer } from "../../../src/control/image-schema.ts";
import { registeredImage } from "../../../src/control/schema.ts";
import { cacheFileName, streamsDirectory } from "../../../src/kernel/fanotify/names.ts";
import { ControlRig } from "../../support/control-rig.ts";
import { TAG, VOLUME } from "../../support/names-rig.ts";

test.each(["the kernel's cache", "a file of our own"])("%s counts", async (where) => {
  const rig = await ControlRig.start();
  const bytes = rig.names.image();
  rig.names.publish(TAG, bytes);
  const { fsid, sizeBytes } = registeredImage.parse((await rig.register(TAG)).json);
  const name = { volumeKey: VOLUME, cookieKey: fsid };
  const listed = async () =>
    imagesAnswer.parse((await rig.ask("GET", "/v1/images")).json).images[0]?.cachedBytes;
  expect(await listed()).toBe(0);
  const file = encodedObjectFile(rig.cacheDir, name);
  const path =
    where === "a file of our own" || file === undefined
      ? join(streamsDirectory(rig.cacheDir), cacheFileName(name, sizeBytes))
      : join(file.directory, file.name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, new Uint8Array(4096).fill(1));
  expect(await listed()).toBe(Math.min(4096, sizeBytes));
});
