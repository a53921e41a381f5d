// SPDX-License-Identifier: Apache-2.0
// What this machine tells of itself: rights, options of its kernel, filesystems, who holds a device.

import { readFile, readdir, readlink, statfs } from "node:fs/promises";
import { release } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import type { DoorKind } from "../config/config.ts";
import type { Finding } from "./report.ts";

const CAP_SYS_ADMIN = 21n;

/** Of each door, and `FILES` or `LOOP` instead of both for `full`. */
const OPTIONS: Readonly<Record<DoorKind, readonly string[]>> = {
  cachefiles: [
    "CONFIG_EROFS_FS",
    "CONFIG_CACHEFILES",
    "CONFIG_CACHEFILES_ONDEMAND",
    "CONFIG_EROFS_FS_ONDEMAND",
  ],
  fanotify: [
    "CONFIG_EROFS_FS",
    "CONFIG_EROFS_FS_BACKED_BY_FILE",
    "CONFIG_FANOTIFY",
    "CONFIG_FANOTIFY_ACCESS_PERMISSIONS",
  ],
  full: ["CONFIG_EROFS_FS", "CONFIG_EROFS_FS_BACKED_BY_FILE", "CONFIG_BLK_DEV_LOOP"],
};

/** statfs(2) f_type of what a cache may lie on, and of what it often does and may not. */
const FILESYSTEMS: Readonly<Record<number, string>> = {
  0xef53: "ext4",
  0x58465342: "xfs",
  0x9123683e: "btrfs",
  0x01021994: "tmpfs",
  0x794c7630: "overlayfs",
  0x6969: "nfs",
};
const SUITABLE = ["ext4", "xfs", "btrfs"];

/** Effective capabilities (proc_pid_status(5)). */
export async function rightsFinding(): Promise<Finding> {
  const status = await readFile("/proc/self/status", "utf8");
  const [, hex = "0"] = /^CapEff:\s*([0-9a-f]+)$/m.exec(status) ?? [];
  const mayMount = ((BigInt(`0x${hex}`) >> CAP_SYS_ADMIN) & 1n) === 1n;
  const who = `uid ${process.getuid?.() ?? "?"}`;
  return mayMount
    ? { what: "rights", verdict: "ok", detail: `CAP_SYS_ADMIN (${who})` }
    : {
        what: "rights",
        verdict: "bad",
        detail: `no CAP_SYS_ADMIN (${who}): nothing can be mounted or tried`,
        fix: "run it as root",
      };
}

/** The kernel's options by name: `y`, `m`, or a value; undefined when it does not tell them. */
export async function kernelOptions(): Promise<ReadonlyMap<string, string> | undefined> {
  const text = await configText();
  if (text === undefined) return undefined;
  const options = new Map<string, string>();
  for (const [, name = "", value = ""] of text.matchAll(/^(CONFIG_\w+)=(.*)$/gm)) {
    options.set(name, value);
  }
  return options;
}

async function configText(): Promise<string | undefined> {
  const packed = await readFile("/proc/config.gz").catch(() => undefined);
  if (packed !== undefined) return (await promisify(gunzip)(packed)).toString();
  for (const path of [`/boot/config-${release()}`, `/lib/modules/${release()}/config`]) {
    const text = await readFile(path, "utf8").catch(() => undefined);
    if (text !== undefined) return text;
  }
  return undefined;
}

/** What a door needs and this kernel was built without; undefined: it does not tell. */
export function missingOptions(
  door: DoorKind,
  options: ReadonlyMap<string, string> | undefined,
): string[] | undefined {
  if (options === undefined) return undefined;
  const missing = OPTIONS[door].filter((name) => !options.has(name));
  // One of the two is enough for whole images.
  const ways = ["CONFIG_EROFS_FS_BACKED_BY_FILE", "CONFIG_BLK_DEV_LOOP"];
  const hasWay = door === "full" && ways.some((name) => options.has(name));
  return hasWay ? missing.filter((name) => !ways.includes(name)) : missing;
}

/** The directory itself, or the nearest above it that is there. */
export async function nearestDirectory(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    const isThere = await readdir(at).then(
      () => true,
      () => false,
    );
    if (isThere || at === "/") return at;
  }
}

export async function filesystemFinding(cacheDir: string, nearest: string): Promise<Finding> {
  const what = "cache directory";
  const { type, bavail, bsize } = await statfs(nearest);
  const name = FILESYSTEMS[type] ?? `filesystem 0x${type.toString(16)}`;
  const free = `${Math.round((bavail * bsize) / 2 ** 30)} GiB free`;
  const detail = `${cacheDir} on ${name}, ${free}`;
  if (SUITABLE.includes(name)) return { what, verdict: "ok", detail };
  return { what, verdict: "bad", detail, fix: "put cache.dir on ext4, xfs or btrfs" };
}

export interface Holder {
  readonly pid: number;
  readonly command: string;
}

/** Who has a device open; undefined when nobody can be seen to. */
export async function holderOf(device: string): Promise<Holder | undefined> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  for (const pid of pids) {
    const fds = await readdir(join("/proc", pid, "fd")).catch(() => []);
    for (const fd of fds) {
      const target = await readlink(join("/proc", pid, "fd", fd)).catch(() => "");
      if (target !== device) continue;
      const command = await readFile(join("/proc", pid, "comm"), "utf8").catch(() => "?");
      return { pid: Number(pid), command: command.trim() };
    }
  }
  return undefined;
}
