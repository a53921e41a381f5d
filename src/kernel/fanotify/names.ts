// SPDX-License-Identifier: Apache-2.0
// Where the files of this door lie, and what they are called. A key and a size name one content
// for ever (state/bindings.ts sees to it), so both are in the name of its file.
//
//   <cache.dir>/fanotify/streams/d-<64 hex>-<size>   cache file of a key that is a digest
//   <cache.dir>/fanotify/streams/k-<64 hex>-<size>   of any other key: a hash of volume and key
//   <cache.dir>/fanotify/streams/<name>.record       what of it may be trusted
//   <cache.dir>/fanotify/open/<run>-<id>-<name>      a link to it, there while it may be mounted
//   <cache.dir>/fanotify/open/<run>-<id>-whole-<name>  the same, once all of it is there and verified

import { createHash } from "node:crypto";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { syncDirectory } from "../../platform/durable-file.ts";
import { isDigest } from "../../units.ts";

export const RECORD_SUFFIX = ".record";

export interface KeyName {
  readonly volumeKey: string;
  readonly cookieKey: string;
}

export function streamsDirectory(cacheDir: string): string {
  return join(cacheDir, "fanotify", "streams");
}

export function openDirectory(cacheDir: string): string {
  return join(cacheDir, "fanotify", "open");
}

/** What a mount names as its source. Two mounts of a file at the same time may name two of them. */
export function openPath(
  cacheDir: string,
  of: { run: string; id: number; isWhole: boolean; file: string },
): string {
  const { run, id, isWhole, file } = of;
  return join(openDirectory(cacheDir), `${run}-${id}-${isWhole ? "whole-" : ""}${file}`);
}

export interface MountedFile {
  /** All of it was there when it was mounted: nobody is asked about it. */
  readonly isWhole: boolean;
  /** Of its cache file. */
  readonly name: string;
}

/** What a mount's source says; undefined when it is no path of ours, of this cache or, if not given, any. */
export function parseOpenPath(path: string, cacheDir?: string): MountedFile | undefined {
  const [, directory, whole, name] =
    /^(.*\/fanotify\/open)\/[0-9a-f]+-\d+-(whole-)?([dk]-[0-9a-f]{64}-\d+)$/.exec(path) ?? [];
  if (directory === undefined || name === undefined) return undefined;
  if (cacheDir !== undefined && directory !== openDirectory(cacheDir)) return undefined;
  return { isWhole: whole !== undefined, name };
}

/** What a loop device has behind it, as the kernel tells: a cache file itself, maybe of this cache. */
export function parseStreamPath(path: string, cacheDir?: string): MountedFile | undefined {
  const [, directory, name] = /^(.*\/fanotify\/streams)\/([dk]-[0-9a-f]{64}-\d+)$/.exec(path) ?? [];
  if (directory === undefined || name === undefined) return undefined;
  if (cacheDir !== undefined && directory !== streamsDirectory(cacheDir)) return undefined;
  return { isWhole: true, name };
}

/** Of the name of a cache file: what it has of its key. */
export function stemOfFile(name: string): string {
  return name.replace(/-\d+$/, "");
}

/** A file name of at most 90 safe characters. `sizeBytes` is what the key was accepted with. */
export function cacheFileName(key: KeyName, sizeBytes: number): string {
  return `${stem(key)}-${sizeBytes}`;
}

/** What the names of all files of a key begin with. */
export function cacheFileStart(key: KeyName): string {
  return `${stem(key)}-`;
}

/** What a key gives to the names of its files. */
export function stem({ volumeKey, cookieKey }: KeyName): string {
  if (isDigest(cookieKey)) return `d-${cookieKey.slice("sha256:".length)}`;
  return `k-${createHash("sha256").update(`${volumeKey}\0${cookieKey}`).digest("hex")}`;
}

/**
 * Deletes every file whose key is no digest of its content, and returns how many: for when it is
 * no longer known what those keys meant. None may be open.
 */
export async function dropUntrustedStreams(cacheDir: string): Promise<number> {
  return drop(cacheDir, (name) => !name.startsWith("d-"));
}

/** Deletes what is cached under one key, for ever. It must not be open. */
export async function dropStreamsOf(cacheDir: string, key: KeyName): Promise<void> {
  const start = `${stem(key)}-`;
  await drop(cacheDir, (name) => name.startsWith(start));
}

async function drop(cacheDir: string, isDropped: (name: string) => boolean): Promise<number> {
  const directory = streamsDirectory(cacheDir);
  const names = (await readdir(directory).catch(noneIfMissing)).filter(isDropped);
  for (const name of names) await rm(join(directory, name), { force: true, recursive: true });
  if (names.length > 0) await syncDirectory(directory);
  return names.filter((name) => !name.endsWith(RECORD_SUFFIX)).length;
}

function noneIfMissing(error: unknown): string[] {
  if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
  throw error;
}
