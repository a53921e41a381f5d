// SPDX-License-Identifier: Apache-2.0
// The addon as native/src exports it, without the types and errors that native.ts gives it: each
// function takes numbers and arrays and gives a result or -errno.

import { createRequire } from "node:module";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { DaemonError } from "../errors.ts";
import { findPackageRoot } from "./package-root.ts";

export type JobResult = number | Float64Array;

/** What native/src exports: a result >= 0, or -errno. */
export interface Binding {
  open(path: string, flags: number): number;
  close(fd: number): number;
  closeOnExec(fd: number): number;
  write(fd: number, bytes: Uint8Array): number;
  readMessage(fd: number, buffer: Uint8Array): number;
  readComplete(fd: number, msgId: number): number;
  fanotifyInit(flags: number, eventFlags: number): number;
  fanotifyMark(group: number, flags: number, mask: number, fd: number): number;
  readEvents(group: number, buffer: Uint8Array): number;
  isOpenElsewhere(fd: number): number;
  peerUid(fd: number): number;
  hasPriority(fd: number): number;
  setAttribute(path: string, name: string, bytes: Uint8Array): Promise<number>;
  getAttribute(
    path: string,
    name: string,
    bytesMax: number,
  ): Promise<readonly [result: number, bytes: Uint8Array]>;
  renameNew(from: string, to: string): Promise<number>;
  memfdCreate(name: string, bytes: number): number;
  mapShared(fd: number): Uint8Array | number;
  occupyFd(number: number): number;
  allocateAligned(bytes: number, external: boolean): Uint8Array;
  layout(): Record<string, number | string>;
  /** fd -1: none is sent; bytesMax -1: nothing is received. */
  exchange(
    socketPath: string,
    bytes: Uint8Array,
    fd: number,
    timeoutMs: number,
    bytesMax: number,
  ): Promise<readonly [syscall: string, result: number, bytes: Uint8Array, fd: number]>;
  /** `address` is sun_path; fd -1: none is sent. */
  sendDatagram(address: Uint8Array, bytes: Uint8Array, fd: number): number;
  FdWatcher: new (
    fd: number,
    onReady: (events: number) => void,
    isPriority?: boolean,
  ) => { start(): number; stop(): unknown; close(): unknown };
  WriterPool: MakePool<WriterPool>;
  DecoderPool: MakePool<DecoderPool>;
}

export type MakePool<Pool extends BindingPool> = new (
  threads: number,
  queueMax: number,
  onDone: (batch: readonly JobResult[]) => void,
) => Pool;

/** Each job function gives the job's number or -errno; ends come as [number, result, ...]. */
export interface BindingPool {
  start(): number;
  destroy(): number;
}

export interface WriterPool extends BindingPool {
  pwrite(
    fd: number,
    bytes: Uint8Array,
    bytesOffset: number,
    length: number,
    fileOffset: number,
    granule: number,
  ): number;
  seek(fd: number, offset: number, whence: number): number;
  extents(fd: number, from: number, sizeBytes: number, extentsMax: number): number;
  populate(bytes: Uint8Array): number;
}

export interface DecoderPool extends BindingPool {
  decode(
    codec: number,
    source: Uint8Array,
    sourceOffset: number,
    sourceLength: number,
    decodedBytes: number,
    dictionary: Uint8Array,
    bits: number,
    byte: number,
    target: Uint8Array,
    pieces: Uint32Array,
  ): number;
  decodeMany(source: Uint8Array, target: Uint8Array, units: Uint32Array): number;
}

/** `result`, or the fault it stands for. */
export function checked(syscall: string, result: number, detail = ""): number {
  if (result < 0) throw fault(syscall, -result, detail);
  return result;
}

export function fault(syscall: string, errno: number, detail = ""): DaemonError {
  const errnoName = errnoNames.get(errno) ?? `errno ${errno}`;
  return new DaemonError({ code: "syscall_failed", syscall, errno, errnoName, detail });
}

const errnoNames = new Map(
  Object.entries(constants.errno).map(([name, errno]) => [errno, name]),
).set(constants.errno.EAGAIN, "EAGAIN"); // not EWOULDBLOCK

export function loadBinding(): Binding {
  const directory = fileURLToPath(new URL("native/", findPackageRoot()));
  try {
    const load: unknown = createRequire(import.meta.url)("node-gyp-build");
    if (!isLoader(load)) throw new Error("node-gyp-build is not a function");
    return load(directory);
  } catch (error) {
    const reason = error instanceof Error ? error.message.split("\n")[0] : String(error);
    const detail = `the native addon in ${directory} cannot be loaded: ${reason}`;
    throw new DaemonError({ code: "addon_missing", detail }, { cause: error });
  }
}

/** The addon is ours, and there is a test for each function of it: what is loaded is a Binding. */
function isLoader(value: unknown): value is (directory: string) => Binding {
  return typeof value === "function";
}
