// SPDX-License-Identifier: Apache-2.0
// The addon, scripted: messages to read, commands and ioctls recorded, fds counted, and writes
// that wait for the test. Closing an fd twice, or using a closed one, throws.

import { constants } from "node:os";
import { DaemonError } from "../../src/errors.ts";
import type { FdWatcher, Native } from "../../src/platform/native.ts";

export const DEVICE_FD = 3;

export interface JobUnderWay {
  readonly fd: number;
  readonly kind: "pwrite" | "extents" | "seek";
  resolve(value?: number | Float64Array): void;
  fail(errnoName: string): void;
}

export class ScriptedNative implements Native {
  /** Messages the device gives, in order; an Error is thrown by the read. */
  readonly messages: (Uint8Array | Error)[] = [];
  readonly commands: string[] = [];
  /** READ_COMPLETE answers: `fd:msgId`. */
  readonly completed: string[] = [];
  readonly closedFds: number[] = [];
  readonly jobs: JobUnderWay[] = [];
  /** What commands, ioctls or opens throw, by their text; `""` for any. */
  readonly refusals = new Map<string, string>();
  watchers = 0;
  #onReady: (() => void) | undefined;

  open(path: string): number {
    this.#refuse(path);
    return DEVICE_FD;
  }

  memfdCreate(): number {
    throw new Error("nothing outlives a scripted kernel");
  }

  mapShared(): Uint8Array {
    throw new Error("nothing outlives a scripted kernel");
  }

  occupyFd(): boolean {
    throw new Error("nothing outlives a scripted kernel");
  }

  decodeMany(): Promise<Float64Array> {
    return Promise.reject(new Error("nothing is decoded at the kernel's door"));
  }

  populate(): Promise<void> {
    return Promise.reject(new Error("no memory is made at the kernel's door"));
  }

  setAttribute(): Promise<void> {
    return Promise.reject(new Error("no file is touched by name at the kernel's door"));
  }

  getAttribute(): Promise<Uint8Array> {
    return Promise.reject(new Error("no file is touched by name at the kernel's door"));
  }

  renameNew(): Promise<void> {
    return Promise.reject(new Error("no file is touched by name at the kernel's door"));
  }

  decode(): Promise<void> {
    return Promise.reject(new Error("nothing is decoded at the kernel's door"));
  }

  close(fd: number): void {
    this.#mustBeOpen(fd);
    this.closedFds.push(fd);
  }

  closeOnExec(fd: number): void {
    this.#mustBeOpen(fd);
  }

  sendDatagram(): void {
    throw new Error("not scripted");
  }

  write(fd: number, bytes: Uint8Array): number {
    this.#mustBeOpen(fd);
    const command = new TextDecoder().decode(bytes);
    this.commands.push(command);
    this.#refuse(command);
    return bytes.length;
  }

  readMessage(fd: number, buffer: Uint8Array): number {
    this.#mustBeOpen(fd);
    const next = this.messages.shift();
    if (next === undefined) return 0;
    if (next instanceof Error) throw next;
    buffer.set(next);
    return next.length;
  }

  readComplete(fd: number, msgId: number): void {
    this.#mustBeOpen(fd);
    this.completed.push(`${fd}:${msgId}`);
    this.#refuse(`ioctl ${msgId}`);
  }

  fanotifyInit(): number {
    throw new Error("not scripted");
  }

  fanotifyMark(): void {
    throw new Error("not scripted");
  }

  readEvents(): number {
    throw new Error("not scripted");
  }

  isOpenElsewhere(): boolean {
    throw new Error("not scripted");
  }

  peerUid(): number {
    throw new Error("not scripted");
  }

  watch(_fd: number, onReady: (events: number) => void): FdWatcher {
    this.watchers += 1;
    this.#onReady = () => {
      onReady(1);
    };
    let open = true;
    return {
      close: () => {
        if (open) this.watchers -= 1;
        open = false;
        this.#onReady = undefined;
      },
    };
  }

  /** Puts messages on the device and wakes its watcher. */
  deliver(...messages: (Uint8Array | Error)[]): void {
    this.messages.push(...messages);
    this.#onReady?.();
  }

  pwriteAligned(fd: number): Promise<void> {
    return this.#job(fd, "pwrite").then(() => undefined);
  }

  seek(fd: number): Promise<number> {
    return this.#job(fd, "seek").then(Number);
  }

  dataExtents(fd: number): Promise<Float64Array> {
    return this.#job(fd, "extents").then((found) =>
      found instanceof Float64Array ? found : new Float64Array(),
    );
  }

  watchPriority(): FdWatcher {
    throw new Error("not scripted");
  }

  hasPriority(): boolean {
    throw new Error("not scripted");
  }

  sendWithFd(): Promise<void> {
    return Promise.reject(new Error("not scripted"));
  }

  receiveWithFd(): ReturnType<Native["receiveWithFd"]> {
    return Promise.reject(new Error("not scripted"));
  }

  allocateAligned(bytes: number): Uint8Array {
    return new Uint8Array(bytes);
  }

  layout(): ReturnType<Native["layout"]> {
    throw new Error("not scripted");
  }

  destroy(): Promise<void> {
    return Promise.resolve();
  }

  #job(fd: number, kind: JobUnderWay["kind"]): Promise<number | Float64Array> {
    this.#mustBeOpen(fd);
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        // The kernel works on this number until now.
        this.#mustBeOpen(fd);
        this.jobs.splice(this.jobs.indexOf(job), 1);
      };
      const job: JobUnderWay = {
        fd,
        kind,
        resolve: (value = 0) => {
          leave();
          resolve(value);
        },
        fail: (errnoName) => {
          leave();
          reject(errnoError(kind, errnoName));
        },
      };
      this.jobs.push(job);
    });
  }

  #mustBeOpen(fd: number): void {
    if (this.closedFds.includes(fd)) throw new Error(`fd ${fd} is closed`);
  }

  #refuse(text: string): void {
    const errnoName = this.refusals.get(text);
    if (errnoName !== undefined) throw errnoError(text, errnoName);
  }
}

export function errnoError(syscall: string, errnoName: string): DaemonError {
  const errno = Object.entries(constants.errno).find(([name]) => name === errnoName)?.[1] ?? 0;
  return new DaemonError({ code: "syscall_failed", syscall, errno, errnoName, detail: "" });
}
