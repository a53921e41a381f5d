// SPDX-License-Identifier: Apache-2.0
// Directories of blobs before a registry: used, passed by, and not believed.
import { execFileSync } from "node:child_process";
import { mkdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { withBlobDirectories } from "../../../src/source/blob-directories.ts";
import { sameBytes } from "../../support/bytes.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { CONTENT, startClient } from "../../support/registry-client.ts";
import { rightAnswer } from "../../support/scripted-server.ts";
import { tempDir } from "../../support/temp-dir.ts";

async function startWith(files: (name: string) => Readonly<Record<string, Uint8Array>>) {
  const folder = await tempDir();
  const clock = new FakeClock();
  const warnings: string[] = [];
  const client = await startClient(
    (request, socket) => socket.write(rightAnswer(request, CONTENT)),
    { clock },
  );
  const { digest } = client.blob;
  for (const [path, bytes] of Object.entries(files(digest))) {
    await mkdir(join(folder, path, ".."), { recursive: true });
    await writeFile(join(folder, path), bytes);
  }
  const source = withBlobDirectories(client.source, {
    clock,
    directories: [join(folder, "one"), join(folder, "two")],
    log: { warn: (_, text) => void warnings.push(text) },
  });
  const options = () => ({
    signal: new AbortController().signal,
    deadlineMs: clock.nowMs() + 20_000,
  });
  const read = async (offset: number, length: number, avoidPeers = false): Promise<boolean> => {
    const pieces: Uint8Array[] = [];
    const keep = (piece: Uint8Array): void => void pieces.push(Uint8Array.from(piece));
    await source.readRange(client.blob, { offset, length }, keep, {
      ...options(),
      avoidPeers,
    });
    const bytes = Uint8Array.from(Buffer.concat(pieces));
    return sameBytes(bytes, CONTENT.subarray(offset, offset + length));
  };
  return {
    folder,
    clock,
    warnings,
    client,
    source,
    read,
    options,
    asked: () => client.server.requests.map(({ headers }) => headers.get("range")),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}

const hexOf = (digest: string): string => digest.slice("sha256:".length);

it.each<[string, (digest: string) => string]>([
  ["64 hex digits in the first", (digest) => `one/${hexOf(digest)}`],
  ["64 hex digits in the second", (digest) => `two/${hexOf(digest)}`],
  ["a whole digest", (digest) => `two/${digest}`],
])("a file named by %s is read, and no registry is asked", async (_, pathOf) => {
  await using made = await startWith((digest) => ({ [pathOf(digest)]: CONTENT }));
  expect(await made.read(5_000, 40_000)).toBe(true);
  expect(await made.source.blobSize(made.client.blob, made.options())).toBe(CONTENT.length);
  expect(made.asked()).toEqual([]);
});

it("a blob that is in none comes from the registry, and is looked for again later", async () => {
  await using made = await startWith(() => ({}));
  expect(await made.read(0, 100)).toBe(true);
  await mkdir(join(made.folder, "one"));
  await writeFile(join(made.folder, "one", hexOf(made.client.blob.digest)), CONTENT);
  expect(await made.read(100, 100)).toBe(true);
  expect(made.asked()).toHaveLength(2);
  await made.clock.advance(10_000);
  expect(await made.read(200, 100)).toBe(true);
  expect(made.asked()).toHaveLength(2);
});

it("a file of another size is passed by, and told", async () => {
  await using made = await startWith((digest) => ({
    [`one/${hexOf(digest)}`]: CONTENT.subarray(1),
  }));
  expect(await made.read(0, 100)).toBe(true);
  expect(made.asked()).toHaveLength(1);
  expect(made.warnings).toHaveLength(1);
  expect(made.warnings[0]).toContain("going on at the registry");
});

it("a file that has shrunk since is passed by", async () => {
  await using made = await startWith((digest) => ({ [`one/${hexOf(digest)}`]: CONTENT }));
  expect(await made.read(0, CONTENT.length)).toBe(true);
  await truncate(join(made.folder, "one", hexOf(made.client.blob.digest)), 10);
  expect(await made.read(7, 100)).toBe(true);
  expect(made.asked()).toEqual(["bytes=7-106"]);
});

it("bytes that are asked for again are wanted from the registry", async () => {
  const wrong = Uint8Array.from(CONTENT, (byte) => byte ^ 1);
  await using made = await startWith((digest) => ({ [`one/${hexOf(digest)}`]: wrong }));
  expect(await made.read(0, 100)).toBe(false);
  expect(await made.read(0, 100)).toBe(true);
  expect(await made.read(500, 100)).toBe(true);
  expect(made.warnings).toHaveLength(1);
});

it("bytes of which somebody says that they were bad are wanted from the registry", async () => {
  await using made = await startWith((digest) => ({ [`one/${hexOf(digest)}`]: CONTENT }));
  expect(await made.read(0, 100, true)).toBe(true);
  expect(made.asked()).toEqual(["bytes=0-99"]);
});

it("what is no regular file is passed by", async () => {
  await using made = await startWith(() => ({ "one/x": Uint8Array.of(1) }));
  execFileSync("mkfifo", [join(made.folder, "one", hexOf(made.client.blob.digest))]);
  expect(await made.read(0, 100)).toBe(true);
  expect(made.asked()).toHaveLength(1);
});

it("leaves no timer behind", async () => {
  await using made = await startWith((digest) => ({ [`one/${hexOf(digest)}`]: CONTENT }));
  await made.read(0, 100);
  expect(made.clock.pendingCount).toBe(0);
});
