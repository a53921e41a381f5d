// SPDX-License-Identifier: Apache-2.0
// Bootstraps and chunk maps on disk: whole or not at all, whatever happens to the file they come
// from or to the disk they go to.

import { execFileSync } from "node:child_process";
import { appendFile, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { writeAll } from "../../../src/platform/durable-file.ts";
import { StreamStore } from "../../../src/state/stream-store.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { tempDir } from "../../support/temp-dir.ts";

describe("a bootstrap", () => {
  test("that is refused leaves nothing behind", async () => {
    const directory = await tempDir();
    const store = new StreamStore(join(directory, "state"));
    const path = join(directory, "image.boot");
    await writeFile(path, "one");
    const refused = store.addBootstrap(path, () => Promise.reject(new Error("no image")));
    // A disk that is full is not the image's fault.
    expect(await rejectionOf(refused)).toBe("not a DaemonError");
    expect(await readdir(join(directory, "state", "incoming"))).toEqual([]);
  });

  test("that changes while it is looked at is stored as it was looked at", async () => {
    const directory = await tempDir();
    const store = new StreamStore(join(directory, "state"));
    const path = join(directory, "image.boot");
    await writeFile(path, "one");
    let seen = "";
    const stored = await store.addBootstrap(path, async (copyPath) => {
      await appendFile(path, " and more");
      seen = await readFile(copyPath, "utf8");
    });
    expect([seen, stored.size]).toEqual(["one", 3]);
    expect(await readFile(stored.path, "utf8")).toBe("one");
  });

  test("that is a pipe is refused, not waited for", async () => {
    const directory = await tempDir();
    const store = new StreamStore(join(directory, "state"));
    const path = join(directory, "image.boot");
    execFileSync("mkfifo", [path]);
    expect(await rejectionOf(store.addBootstrap(path))).toBe("image_invalid");
    expect(await store.digestOf(path)).toBeUndefined();
  });
});

test("a disk that takes less than it is given gets the rest, or the write fails", async () => {
  const written = new Uint8Array(10);
  const file = (most: number) => ({
    write: (bytes: Uint8Array, from: number, length: number, at: number) => {
      const bytesWritten = Math.min(most, length);
      written.set(bytes.subarray(from, from + bytesWritten), at);
      return Promise.resolve({ bytesWritten, buffer: bytes });
    },
  });
  const bytes = Uint8Array.from([1, 2, 3, 4, 5, 6, 7]);
  await writeAll(file(3), bytes, 2);
  expect([...written]).toEqual([0, 0, 1, 2, 3, 4, 5, 6, 7, 0]);
  await expect(writeAll(file(0), bytes, 0)).rejects.toThrow("nothing more");
});
