// SPDX-License-Identifier: Apache-2.0

import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openLineSink } from "../../../src/nydusd/log-lines.ts";
import { tempDir } from "../../support/temp-dir.ts";

test("lines go to the file, in order, and its directory is made", async () => {
  const path = join(await tempDir(), "logs/d1/nydusd.log");
  const sink = openLineSink({ path, rotateBytes: 0 });
  for (let at = 0; at < 100; at += 1) sink.write(`line ${at}\n`);
  await sink.drain(1000);
  const lines = (await readFile(path, "utf8")).trimEnd().split("\n");
  expect(lines).toEqual(Array.from({ length: 100 }, (_, at) => `line ${at}`));
});

test("a file that has grown is set aside, and three of those are kept", async () => {
  const directory = await tempDir();
  const sink = openLineSink({ path: join(directory, "n.log"), rotateBytes: 100 });
  for (let at = 0; at < 20; at += 1) {
    sink.write(`${String(at).padStart(99, ".")}\n`);
    await sink.drain(1000);
  }
  expect((await readdir(directory)).toSorted()).toEqual(["n.log", "n.log.1", "n.log.2", "n.log.3"]);
  expect(await readFile(join(directory, "n.log.1"), "utf8")).toContain("..19\n");
});

test("more than can be written is dropped, and counted", async () => {
  const path = join(await tempDir(), "n.log");
  const sink = openLineSink({ path, rotateBytes: 0 });
  for (let at = 0; at < 30; at += 1) sink.write(`${"x".repeat(100_000)}\n`);
  await sink.drain(1000);
  sink.write("after\n");
  await sink.drain(1000);
  const text = await readFile(path, "utf8");
  expect(text.length).toBeLessThan(1_400_000);
  expect(text).toMatch(/"msg":"log lines dropped","lines":\d+/);
  expect(text).toContain("after");
});
