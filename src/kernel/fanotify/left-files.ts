// SPDX-License-Identifier: Apache-2.0
// What is written down of each file that is open at this door, beside its link, for the daemon that
// follows this one: the kernel names files by their inodes alone. It need not survive a power cut,
// after which nothing is mounted.

import { mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import { listOrNone } from "../../platform/list-directory.ts";
import type { Log } from "../../platform/log.ts";
import { type KeyName, openDirectory } from "./names.ts";

const NOTE_SUFFIX = ".json";

const noteSchema = z.strictObject({
  version: z.literal(1),
  volumeKey: z.string(),
  cookieKey: z.string(),
  sizeBytes: z.int().positive(),
  /** As fileId gives it. */
  file: z.string().regex(/^\d+:\d+$/),
});

export interface LeftFile {
  /** By which it is mounted. */
  readonly link: string;
  readonly key: KeyName;
  /** As the key was accepted with. */
  readonly sizeBytes: number;
  readonly file: string;
}

/** A link that leads to `target`, and its note, before anybody can mount it. Rejects with the system's error. */
export async function placeLink(
  target: string,
  { link, key, sizeBytes, file }: LeftFile,
): Promise<void> {
  const { volumeKey, cookieKey } = key;
  const note: z.infer<typeof noteSchema> = { version: 1, volumeKey, cookieKey, sizeBytes, file };
  await mkdir(dirname(link), { recursive: true, mode: 0o700 });
  await writeFile(`${link}${NOTE_SUFFIX}`, JSON.stringify(note), { mode: 0o600 });
  // One that another daemon left may be there, or have been removed just when that one died.
  await rm(link, { force: true });
  await symlink(target, link);
}

export async function forgetOpen(link: string): Promise<void> {
  await rm(link, { force: true });
  await rm(`${link}${NOTE_SUFFIX}`, { force: true });
}

/** What a daemon left open. A note that cannot be read is told and left out. */
export async function readLeft(cacheDir: string, log: Log): Promise<LeftFile[]> {
  const directory = openDirectory(cacheDir);
  const names = (await listOrNone(directory)).filter((name) => name.endsWith(NOTE_SUFFIX));
  const left = await Promise.all(
    names.map(async (name) => {
      const link = join(directory, basename(name, NOTE_SUFFIX));
      try {
        const text = await readFile(join(directory, name), "utf8");
        const { sizeBytes, file, volumeKey, cookieKey } = noteSchema.parse(JSON.parse(text));
        return { link, key: { volumeKey, cookieKey }, sizeBytes, file };
      } catch (error) {
        log.error({ err: error, link }, "it cannot be read what was mounted by this link");
        return undefined;
      }
    }),
  );
  return left.filter((file) => file !== undefined);
}
