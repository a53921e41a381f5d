// SPDX-License-Identifier: Apache-2.0
// `erofsd mount` and `erofsd umount`. The daemon names the image; the system call is made here,
// because mount(2) blocks its process until the daemon has answered.

import { realpath, stat } from "node:fs/promises";
import { resolve } from "node:path";
import * as z from "zod";
import { RemoteError, ask } from "../control/client.ts";
import {
  type RegisterRequest,
  type RegisteredImage,
  failureAnswer,
  registeredImage,
} from "../control/schema.ts";
import { DaemonError } from "../errors.ts";
import { cookieKeyProblem, volumePartProblem } from "../kernel/cachefiles/keys.ts";
import { absoluteReference } from "./absolute-reference.ts";
import { isOpenPath } from "../kernel/fanotify/names.ts";
import { bindMount, listMounts, mountErofs, unmount } from "../kernel/mount.ts";
import type { MountEntry } from "../kernel/mount.ts";

/** Mounts `reference` at `directory`. Where the image is mounted already, that mount is shown there too. */
export async function mountCommand(given: {
  reference: string;
  directory: string;
  socketPath: string;
  json: boolean;
  fill?: RegisterRequest["fill"];
}): Promise<void> {
  const startMs = Date.now();
  const target = await mountPoint(given.directory);
  const register = () =>
    ask(given.socketPath, {
      method: "POST",
      path: "/v1/images",
      body: { reference: absoluteReference(given.reference), fill: given.fill },
      answer: registeredImage,
    });
  const image = await register();
  refuseDangerousKeys(image);
  const asked = { socketPath: given.socketPath, startMs };
  const shared = await mountOrShare(image, target, asked).catch(async (error: unknown) => {
    // Files that were prepared go when another mount of them ends meanwhile.
    if (image.files === undefined || errnoOf(error) !== "ENOENT") throw error;
    return mountOrShare(await register(), target, asked);
  });
  const { reference, manifestDigest, fsid, sizeBytes } = image;
  if (given.json) {
    const result = { reference, manifestDigest, fsid, sizeBytes, target, shared };
    process.stdout.write(`${JSON.stringify(result)}\n`);
  } else {
    process.stdout.write(`${target}: ${reference} (${manifestDigest})\n`);
  }
}

/** Unmounts an EROFS mount of erofsd; anything else at `directory` is refused. */
export async function umountCommand(given: { directory: string; lazy: boolean }): Promise<void> {
  const target = await realpath(given.directory).catch(() => resolve(given.directory));
  const here = (await listMounts()).findLast((entry) => entry.mountPoint === target);
  if (here === undefined || !isOurs(here)) {
    const found =
      here === undefined ? "nothing is mounted there" : `a ${here.fsType} is mounted there`;
    throw new DaemonError({
      code: "usage_invalid",
      detail: `${target} is no mount of erofsd: ${found}`,
    });
  }
  try {
    unmount(target, { lazy: given.lazy });
  } catch (error) {
    if (errnoOf(error) !== "EBUSY") throw error;
    const detail = `${target} is in use (see fuser -vm ${target}, or pass --lazy)`;
    throw new DaemonError({ code: "mount_failed", target, detail }, { cause: error });
  }
}

async function mountPoint(directory: string): Promise<string> {
  const found = await stat(directory).catch(() => undefined);
  if (found?.isDirectory() === true) return realpath(directory);
  const detail = found === undefined ? "does not exist" : "is no directory";
  throw new DaemonError({ code: "usage_invalid", detail: `${directory} ${detail}` });
}

function refuseDangerousKeys(image: RegisteredImage): void {
  const problems = [
    { key: image.domainId, detail: volumePartProblem(image.domainId) },
    ...[image.fsid, ...image.devices].map((key) => ({ key, detail: cookieKeyProblem(key) })),
  ];
  for (const { key, detail } of problems) {
    if (detail !== undefined) throw new DaemonError({ code: "key_refused", key, detail });
  }
}

// Returns the mount point whose mount is shared, undefined for a mount of its own.
async function mountOrShare(
  image: RegisteredImage,
  target: string,
  asked: { socketPath: string; startMs: number },
): Promise<string | undefined> {
  const { fsid, domainId, devices, files } = image;
  try {
    mountErofs(files ?? { fsid, domainId, devices }, target);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === "EEXIST" || errno === "EBUSY") {
      const there = (await listMounts()).findLast(
        (entry) => isOverFscache(entry) && entry.superOptions.includes(`fsid=${fsid}`),
      );
      if (there !== undefined) {
        bindMount(there.mountPoint, target);
        return there.mountPoint;
      }
    }
    throw (await causeOf([fsid, ...devices], asked)) ?? error;
  }
  // The kernel mounts an image whose device could not be opened; its files would fail one by one.
  const cause = await causeOf(devices, asked);
  if (cause === undefined) return undefined;
  unmount(target, { lazy: false });
  throw cause;
}

/** The daemon's account of why one of `keys` failed since we began: the kernel says only ENOBUFS or EIO. */
async function causeOf(
  keys: readonly string[],
  asked: { socketPath: string; startMs: number },
): Promise<RemoteError | undefined> {
  for (const key of keys) {
    const path = `/v1/failures?key=${encodeURIComponent(key)}`;
    const answer: z.infer<typeof failureAnswer> = await ask(asked.socketPath, {
      method: "GET",
      path,
      answer: failureAnswer,
    }).catch(() => ({}));
    if (answer.failure !== undefined && answer.failure.atMs >= asked.startMs) {
      return new RemoteError(answer.failure);
    }
  }
  return undefined;
}

function isOurs(entry: MountEntry): boolean {
  return isOverFscache(entry) || (entry.fsType === "erofs" && isOpenPath(entry.source));
}

function isOverFscache(entry: MountEntry): boolean {
  return (
    entry.fsType === "erofs" && entry.superOptions.some((option) => option.startsWith("fsid="))
  );
}

function errnoOf(error: unknown): string | undefined {
  return error instanceof DaemonError && error.fault.code === "syscall_failed"
    ? error.fault.errnoName
    : undefined;
}
