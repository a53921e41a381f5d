// SPDX-License-Identifier: Apache-2.0
// What open-files.ts keeps of each file, and gives to whoever asks for one.

import type { Clock } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import { DaemonError } from "../../errors.ts";
import { CacheFile } from "./cache-file.ts";
import type { FileLinks } from "./file-links.ts";
import type { FileObject } from "./file-object.ts";
import type { LeftFile } from "./left-files.ts";
import type { KeyName } from "./names.ts";
import type { OrphanFiles } from "./orphan-files.ts";
import type { RoomLimits } from "./room.ts";
import type { CacheFileParts } from "./stored-file.ts";

export interface OpenFilesParts {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Log;
  /** Undefined: nobody can be asked, so files are mounted only when all of them is there. */
  readonly groupFd: number | undefined;
  readonly cacheDir: string;
  readonly limits: RoomLimits;
  readonly readTimeoutMs: number;
  readonly messages: { open: number; close: number };
  readonly writes: { writes: number; writtenBytes: number };
  /** Told how many files are open, whenever that changes. */
  readonly onCount: (count: number) => void;
  /** A file that a daemon before us left (fileId) is served now, or nobody's any more. */
  readonly onTakenUp?: (file: string) => void;
}

/** A file that is open, by an fd of ours. */
export interface LeftOpen {
  readonly left: LeftFile;
  readonly fd: number;
}

/** A stream that may be mounted until `release`, and then for as long as it is. */
export interface OpenedFile {
  readonly object: FileObject;
  /** What a mount names as its source, or as a device; nothing is there where nobody can be asked. */
  readonly path: string;
  /** The same, for a file of which all is there that anybody may read, and is verified. */
  readonly wholePath: () => Promise<string>;
  /** Idempotent. It can be mounted for `mountWithinMs` more, unless somebody has it mounted. */
  readonly release: (mountWithinMs: number) => void;
}

export interface OpenEntry {
  readonly object: FileObject;
  readonly file: CacheFile;
  readonly links: FileLinks;
  /** Whoever has asked for it does not hold it yet. */
  isOpening: boolean;
  /** Until then somebody may be about to mount it. */
  awaitedUntilMs: number;
  closing: Promise<void> | undefined;
}

export function idOf({ volumeKey, cookieKey }: KeyName): string {
  return `${volumeKey}\0${cookieKey}`;
}

/** Takes the file over from `orphans`. Faults: key_refused, and as CacheFile.adopt. */
export async function adoptFile(
  parts: CacheFileParts,
  { left, fd }: LeftOpen,
  orphans: Pick<OrphanFiles, "take">,
): Promise<CacheFile> {
  if (left.sizeBytes !== parts.sizeBytes) {
    const detail = `it is mounted with ${left.sizeBytes} bytes, and stands for ${parts.sizeBytes}`;
    throw new DaemonError({ code: "key_refused", key: parts.key.cookieKey, detail });
  }
  orphans.take(fd);
  return CacheFile.adopt(parts, fd);
}
