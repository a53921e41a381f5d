// SPDX-License-Identifier: Apache-2.0
// `erofsd mount` and `erofsd umount`: the daemon does both. Where there is no daemon to ask any
// more, unmounting is done here.

import { realpath, stat } from "node:fs/promises";
import { resolve } from "node:path";
import type { DoorWish } from "../config/config.ts";
import { RemoteError, ask } from "../control/client.ts";
import { type MountRequest, madeMount, mountsAnswer, unmounted } from "../control/mount-schema.ts";
import { DaemonError } from "../errors.ts";
import { MOUNT_POINT_HINT } from "../kernel/mount-point.ts";
import { listMounts } from "../kernel/mountinfo.ts";
import { isOurMount } from "../mounts/mount-list.ts";
import { type Output, jsonLine } from "./output.ts";
import { ProgressBar } from "./progress-bar.ts";
import { absoluteReference } from "./absolute-reference.ts";

const LOOK_EVERY_MS = 250;

/**
 * Mounts `reference` at `directory`. Where the image is mounted already, that mount is shown there
 * too. Faults as `ask`; usage_invalid, mount_failed.
 */
export async function mountCommand(
  given: {
    readonly reference: string;
    readonly directory: string;
    readonly door: DoorWish;
    readonly fill?: MountRequest["fill"];
    readonly cancelOnInterrupt?: boolean;
    readonly socketPath: string;
    readonly json: boolean;
  },
  output: Output = process.stdout,
  terminal: Output = process.stderr,
): Promise<void> {
  const { socketPath, door, fill, cancelOnInterrupt = false } = given;
  const reference = absoluteReference(given.reference);
  const target = await mountPoint(given.directory);
  const watching = given.json ? undefined : watchProgress(socketPath, target, terminal);
  const made = await ask(socketPath, {
    method: "POST",
    path: "/v1/mounts",
    body: { reference, mountPoint: target, door, fill, cancelWithClient: cancelOnInterrupt },
    answer: madeMount,
    // A whole image takes as long as it takes; the daemon gives up when nothing comes.
    timeoutMs: 0,
  }).finally(() => watching?.());
  await checkSeen(socketPath, target);
  if (given.json) {
    const { mountPoint: _, sharedWith: shared, ...facts } = made;
    output.write(jsonLine({ ...facts, target, ...(shared === undefined ? {} : { shared }) }));
  } else {
    output.write(`${target}: ${made.reference} (${made.manifestDigest})\n`);
  }
}

/** Unmounts a mount of erofsd; anything else at `directory` is refused. Faults: mount_unknown, mount_busy. */
export async function umountCommand(
  given: {
    readonly directory: string;
    readonly lazy: boolean;
    readonly socketPath: string;
    readonly json: boolean;
  },
  output: Output = process.stdout,
): Promise<void> {
  const { lazy, socketPath } = given;
  const target = await realpath(given.directory).catch(() => resolve(given.directory));
  try {
    const path = `/v1/mounts/${encodeURIComponent(target)}?lazy=${lazy}`;
    await ask(socketPath, { method: "DELETE", path, answer: unmounted });
  } catch (error) {
    // It is gone, or lives among other mounts.
    if (!["daemon_unreachable", "mount_unknown"].includes(codeOf(error))) throw error;
    await umountHere(target, lazy);
  }
  if (given.json) output.write(jsonLine({ target }));
}

async function umountHere(target: string, lazy: boolean): Promise<void> {
  const here = (await listMounts()).findLast((entry) => entry.mountPoint === target);
  if (here === undefined || !(await isOurMount(here))) {
    const detail =
      here === undefined ? "nothing is mounted there" : `${here.fsType} is mounted there`;
    throw new DaemonError({ code: "mount_unknown", target, detail });
  }
  // A compiled library, needed for this alone.
  const { unmount } = await import("../kernel/mount.ts");
  try {
    unmount(target, { lazy });
  } catch (error) {
    const isBusy =
      error instanceof DaemonError &&
      error.fault.code === "syscall_failed" &&
      error.fault.errnoName === "EBUSY";
    throw isBusy ? new DaemonError({ code: "mount_busy", target }, { cause: error }) : error;
  }
}

async function mountPoint(directory: string): Promise<string> {
  const found = await stat(directory).catch(() => undefined);
  if (found?.isDirectory() === true) return realpath(directory);
  const detail = found === undefined ? "does not exist" : "is no directory";
  const fault = { code: "usage_invalid", detail: `${directory} ${detail}` } as const;
  throw new DaemonError({ ...fault, hint: MOUNT_POINT_HINT });
}

// A daemon in a mount namespace of its own mounts where nobody here sees it.
async function checkSeen(socketPath: string, target: string): Promise<void> {
  if ((await listMounts()).some(({ mountPoint: seen }) => seen === target)) return;
  const path = `/v1/mounts/${encodeURIComponent(target)}`;
  await ask(socketPath, { method: "DELETE", path, answer: unmounted }).catch(() => undefined);
  const detail =
    "the daemon has mounts of its own (another mount namespace) that are not seen here";
  throw new DaemonError({ code: "mount_failed", target, detail });
}

/** Shows how far the preparing of a whole image is, until the returned function is called. */
function watchProgress(socketPath: string, target: string, terminal: Output): () => void {
  if (terminal.isTTY !== true) return () => undefined;
  const bar = new ProgressBar(terminal, "fetching");
  let isOver = false;
  let isAsking = false;
  const look = async (): Promise<void> => {
    isAsking = true;
    const asked = { method: "GET", path: "/v1/mounts", answer: mountsAnswer } as const;
    const { mounts } = await ask(socketPath, asked);
    const progress = mounts.find(
      (one) => one.mountPoint === target && one.state === "preparing",
    )?.progress;
    if (!isOver && progress !== undefined) bar.update(progress.doneBytes, progress.totalBytes);
  };
  const timer = setInterval(() => {
    if (isAsking) return;
    // Whoever mounts tells what is wrong.
    void look()
      .catch(() => undefined)
      .finally(() => {
        isAsking = false;
      });
  }, LOOK_EVERY_MS);
  return () => {
    isOver = true;
    clearInterval(timer);
    bar.clear();
  };
}

function codeOf(error: unknown): string {
  if (error instanceof RemoteError) return error.failure.code;
  return error instanceof DaemonError ? error.fault.code : "";
}
