// SPDX-License-Identifier: Apache-2.0
// What is written down of each file that is open at this door, beside its links, for the daemon that
// follows this one: the kernel names files by their inodes alone. It need not survive a power cut,
// after which nothing is mounted.

import { readFile, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import * as z from "zod";
import { listOrNone } from "../../platform/list-directory.ts";
import type { Log } from "../../platform/log.ts";
import { type KeyName, openDirectory, parseOpenPath } from "./names.ts";

const NOTE_SUFFIX = ".json";

const noteSchema = z.strictObject({
  version: z.literal(1),
  volumeKey: z.string(),
  cookieKey: z.string(),
  sizeBytes: z.int().positive(),
  /** As fileId gives it. */
  file: z.string().regex(/^\d+:\d+$/),
});

export interface NotedFile {
  /** Of the cache file. */
  readonly name: string;
  readonly key: KeyName;
  /** As the key was accepted with. */
  readonly sizeBytes: number;
  readonly file: string;
}

export interface LeftFile extends NotedFile {
  readonly note: string;
  /** By which it may be mounted. */
  readonly links: readonly string[];
}

/** Before anybody can mount it. Rejects with the system's error. */
export async function noteOpen(cacheDir: string, of: NotedFile): Promise<void> {
  const { name, key, sizeBytes, file } = of;
  const { volumeKey, cookieKey } = key;
  const note: z.infer<typeof noteSchema> = { version: 1, volumeKey, cookieKey, sizeBytes, file };
  await writeFile(notePath(cacheDir, name), JSON.stringify(note), { mode: 0o600 });
}

export async function forgetOpen(cacheDir: string, name: string): Promise<void> {
  await rm(notePath(cacheDir, name), { force: true });
}

/** With its links. */
export async function forgetLeft({ note, links }: LeftFile): Promise<void> {
  for (const path of [...links, note]) await rm(path, { force: true });
}

/** What a daemon left open. A note that cannot be read is told and left out. */
export async function readLeft(cacheDir: string, log: Log): Promise<LeftFile[]> {
  const directory = openDirectory(cacheDir);
  const paths = (await listOrNone(directory)).map((name) => join(directory, name));
  const notes = paths.filter((path) => path.endsWith(NOTE_SUFFIX));
  const left = await Promise.all(
    notes.map(async (note) => {
      const name = basename(note, NOTE_SUFFIX);
      const links = paths.filter((path) => parseOpenPath(path, cacheDir)?.name === name);
      try {
        const text = await readFile(note, "utf8");
        const { sizeBytes, file, volumeKey, cookieKey } = noteSchema.parse(JSON.parse(text));
        return { name, note, links, key: { volumeKey, cookieKey }, sizeBytes, file };
      } catch (error) {
        log.error({ err: error, note }, "it cannot be read what was mounted");
        return undefined;
      }
    }),
  );
  return left.filter((file) => file !== undefined);
}

function notePath(cacheDir: string, name: string): string {
  return join(openDirectory(cacheDir), `${name}${NOTE_SUFFIX}`);
}
