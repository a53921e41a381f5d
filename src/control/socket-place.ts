// SPDX-License-Identifier: Apache-2.0
// Who may reach the control socket. connect(2) on a unix socket needs write permission on its file
// (unix(7)), which is mode 0600 and ours from the moment it is bound: only we and root get in; who
// connected all the same, as to a socket that a service manager made with another mode, is asked for
// by peers.ts. Checked here: that nobody else can put another file in the socket's place.

import { type Stats } from "node:fs";
import { lstat, mkdir, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { DaemonError } from "../errors.ts";
import { isAnswered } from "../platform/private-socket.ts";

const WRITABLE_BY_OTHERS = 0o022;
const STICKY = 0o1000;

/**
 * Makes room for a socket at `path`: its directory exists and is safe, and what a dead daemon left
 * is gone. Faults: config_invalid when the place will not do, socket_in_use when somebody answers.
 */
export async function takePlace(path: string): Promise<void> {
  const directory = dirname(path);
  await mkdir(directory, { recursive: true, mode: 0o755 }).catch((error: unknown) => {
    throw unfit(path, `${directory} cannot be made: ${errnoName(error)}`);
  });
  await checkDirectory(path, directory);
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return;
  // Only a socket is ever replaced: a mistyped control.socket must not cost a file.
  if (!found.isSocket()) throw unfit(path, `${path} exists and is no socket`);
  if (!isOurs(found)) throw unfit(path, `${path} belongs to user ${found.uid}`);
  if (await isAnswered(path)) throw new DaemonError({ code: "socket_in_use", socketPath: path });
  await unlink(path).catch((error: unknown) => {
    if (errnoName(error) !== "ENOENT") throw unfit(path, `cannot be replaced: ${errnoName(error)}`);
  });
}

/** Why a client should not speak to what is at `path`; undefined when it may, or nothing is there. */
export async function strangerAt(path: string): Promise<string | undefined> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined || isOurs(found)) return undefined;
  return `it belongs to user ${found.uid}, who is neither root nor you`;
}

/** The fault that says why there can be no socket at `path`. */
export function unfit(path: string, detail: string): DaemonError {
  const where = "control.socket";
  const full = detail.includes(path) ? detail : `${path}: ${detail}`;
  return new DaemonError({ code: "config_invalid", where, detail: full });
}

/** ENOENT and the like, or the message of what is no system error. */
export function errnoName(error: unknown): string {
  if (error instanceof Error && "code" in error) return String(error.code);
  return error instanceof Error ? error.message : String(error);
}

async function checkDirectory(path: string, directory: string): Promise<void> {
  const found = await stat(directory);
  if (!isOurs(found)) throw unfit(path, `${directory} belongs to user ${found.uid}`);
  // In a sticky directory a file is replaced by its owner alone.
  if ((found.mode & WRITABLE_BY_OTHERS) !== 0 && (found.mode & STICKY) === 0) {
    const mode = (found.mode & 0o7777).toString(8);
    throw unfit(path, `${directory} is for others to write in (mode ${mode})`);
  }
}

function isOurs({ uid }: Stats): boolean {
  return uid === 0 || uid === process.geteuid?.();
}
