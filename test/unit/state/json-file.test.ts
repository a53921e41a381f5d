// SPDX-License-Identifier: Apache-2.0
// A document that is whole after any crash, and saves that share their work.

import { mkdir, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { JsonFile, parseDocument } from "../../../src/state/json-file.ts";
import { tempDir } from "../../support/temp-dir.ts";

let directory: string;
let path: string;
let document: { value: number };
let snapshots: number;
let file: JsonFile;

beforeEach(async () => {
  directory = await tempDir();
  path = join(directory, "state", "doc.json");
  document = { value: 0 };
  snapshots = 0;
  file = new JsonFile(path, () => {
    snapshots += 1;
    return document;
  });
});

const onDisk = async (): Promise<unknown> => parseDocument(await readFile(path, "utf8"));

describe("saving", () => {
  test("makes the directory, writes for us alone and leaves no other file", async () => {
    document.value = 1;
    await file.save();
    expect(await onDisk()).toEqual({ value: 1 });
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(await readdir(join(directory, "state"))).toEqual(["doc.json"]);
  });

  test("resolves only when a snapshot taken after the call is on disk", async () => {
    const first = file.save();
    document.value = 1;
    await Promise.all([first, file.save()]);
    expect(await onDisk()).toEqual({ value: 1 });
  });

  test("many times at once writes at most twice", async () => {
    await Promise.all(Array.from({ length: 50 }, () => file.save()));
    expect(snapshots).toBe(2);
  });

  test("ignores what a crash in the middle of an earlier save left behind", async () => {
    await mkdir(join(directory, "state"));
    await writeFile(`${path}.new`, "{ half a docu");
    expect(await file.read()).toBeUndefined();
    await file.save();
    expect(await onDisk()).toEqual({ value: 0 });
    expect(await readdir(join(directory, "state"))).toEqual(["doc.json"]);
  });

  test("that fails rejects, keeps the old document and lets the next save succeed", async () => {
    await file.save();
    await mkdir(`${path}.new`); // opening it for writing fails with EISDIR
    document.value = 7;
    const outcomes = await Promise.allSettled([file.save(), file.save()]);
    expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    expect(await onDisk()).toEqual({ value: 0 });
    await rm(`${path}.new`, { recursive: true });
    await file.save();
    expect(await onDisk()).toEqual({ value: 7 });
  });
});

describe("reading", () => {
  test("gives the text, or nothing when there is no document", async () => {
    expect(await file.read()).toBeUndefined();
    await file.save();
    expect(parseDocument((await file.read()) ?? "")).toEqual({ value: 0 });
  });

  test("rejects when the document is there but cannot be read", async () => {
    await mkdir(path, { recursive: true });
    await expect(file.read()).rejects.toMatchObject({ code: "EISDIR" });
  });

  test("sets a damaged document aside under another name", async () => {
    await file.save();
    const aside = await file.setAside();
    expect(await file.read()).toBeUndefined();
    expect(parseDocument(await readFile(aside, "utf8"))).toEqual({ value: 0 });
  });
});

describe("a document on disk", () => {
  test("is JSON, and whatever bit of it turns is noticed, or changes nothing", async () => {
    document.value = 42;
    await file.save();
    const written = await readFile(path);
    expect(JSON.parse(written.toString())).toMatchObject({ value: 42 });
    for (let at = 0; at < written.length * 8; at += 1) {
      const turned = Buffer.from(written);
      turned[at >> 3] = (turned[at >> 3] ?? 0) ^ (1 << (at & 7));
      let read: unknown;
      try {
        read = parseDocument(turned.toString());
      } catch {
        continue;
      }
      expect(read).toMatchObject({ value: 42 });
    }
  });

  test("of a daemon that wrote no checksums is read", () => {
    expect(parseDocument('{"value":7}\n')).toEqual({ value: 7 });
  });
});
