// SPDX-License-Identifier: Apache-2.0
// The cachefiles door: reads messages off the bound device, hands them on as requests, and
// keeps the tables that make sure each is answered once and each fd is closed.
//
//   device readable -> readMessage -> parseMessage -> OPEN | READ | CLOSE -> KernelHandler
//
// Message reads, copen and READ_COMPLETE are microsecond calls and run here, on the event
// loop. A dropped OPEN leaves a process that cannot be killed, so every path below answers.

import { DaemonError, asDaemonError } from "../../errors.ts";
import type { Clock } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { FdWatcher, Native } from "../../platform/native.ts";
import { PendingRequest } from "../pending-request.ts";
import type { KernelDoor, KernelHandler, OpenRequest, ReadRequest } from "../transport.ts";
import { CacheObject } from "./cache-object.ts";
import { KernelObjects } from "./kernel-count.ts";
import {
  MESSAGE_BYTES_MAX,
  type MalformedMessage,
  OPCODE,
  type OpenMessage,
  type ReadMessage,
  encodeCommand,
  encodeCopen,
  parseMessage,
} from "./codec.ts";

/** Messages taken per readiness, so that answers and network data get their turn in between. */
const MESSAGES_PER_TURN_MAX = 64;

interface PendingAnswer {
  readonly pending: PendingRequest;
  readonly sendRefusal: (error: DaemonError) => void;
}

interface PendingOpen extends PendingAnswer {
  readonly anonFd: number;
}

interface PendingRead extends PendingAnswer {
  readonly object: CacheObject;
}

export interface SessionParts {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Log;
  /** A device that openBoundDevice returned, or another daemon bound; the session owns it from now on. */
  readonly deviceFd: number;
  /** Another daemon bound it: the kernel is asked to say again what that one left unanswered. */
  readonly adopted?: boolean;
  /** Told how many objects are open, whenever that changes. */
  readonly onObjects?: (count: number) => void;
}

export class CachefilesSession implements KernelDoor {
  readonly #native: Native;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #deviceFd: number;
  readonly #adopted: boolean;
  readonly #onObjects: (count: number) => void;
  readonly #buffer = new Uint8Array(MESSAGE_BYTES_MAX);
  readonly #objects = new Map<number, CacheObject>();
  readonly #opens = new Map<number, PendingOpen>();
  readonly #reads = new Map<number, PendingRead>();
  readonly #closing = new Set<Promise<void>>();
  /** Where another daemon bound the device. */
  #kernelObjects: KernelObjects | undefined;
  #stopped = false;
  #paused = false;
  #watcher: FdWatcher | undefined;
  #handler: KernelHandler | undefined;
  #onFatal: ((error: DaemonError) => void) | undefined;
  /** Kernel messages taken, by kind, and the bytes that READs asked for. */
  readonly messages = { open: 0, read: 0, readBytes: 0, close: 0, malformed: 0 };
  /** Writes into cache files, by all objects. */
  readonly writes = { writes: 0, writtenBytes: 0 };

  constructor(parts: SessionParts) {
    this.#native = parts.native;
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#deviceFd = parts.deviceFd;
    this.#adopted = parts.adopted ?? false;
    this.#onObjects = parts.onObjects ?? (() => undefined);
  }

  start(handler: KernelHandler, onFatal: (error: DaemonError) => void): void {
    this.#handler = handler;
    this.#onFatal = onFatal;
    if (this.#adopted) {
      this.#restore();
      this.#kernelObjects = new KernelObjects({
        clock: this.#clock,
        known: () => this.#objects.size,
        opening: () => this.#opens.size,
        onCount: this.#onObjects,
      });
    }
    this.#watcher = this.#native.watch(this.#deviceFd, () => {
      this.#drain();
    });
  }

  get objectCount(): number {
    return this.#kernelObjects?.count ?? this.#objects.size;
  }

  async isNeeded(): Promise<boolean> {
    await this.#kernelObjects?.settle();
    return this.objectCount > 0;
  }

  /** Of objects that the daemon before us opened none is left but those that were opened again. */
  async areAllKnown(): Promise<boolean> {
    return (await this.#kernelObjects?.areAllKnown()) ?? true;
  }

  /** Takes what is readable, though nobody said that it is; ends the session as a failed read does. */
  probe(): void {
    if (this.#watcher !== undefined) this.#drain();
  }

  pause(): void {
    this.#paused = true;
    this.#watcher?.close();
    this.#watcher = undefined;
  }

  async stop(error: DaemonError): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#kernelObjects?.stop();
    // Undelivered messages would die with the device anyway; taken here, they are answered below.
    for (let left = this.#paused ? 0 : 1024; left > 0; left -= 1) {
      if (!this.#takeMessage(() => undefined)) break;
    }
    this.#watcher?.close();
    this.#watcher = undefined;
    // Preempted, not answered: flow still holds these requests and may answer them later.
    for (const { pending, sendRefusal } of [...this.#opens.values(), ...this.#reads.values()]) {
      pending.preempt(() => {
        sendRefusal(error);
      });
    }
    await this.#closeAll();
  }

  async handOver(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#kernelObjects?.stop();
    this.pause();
    // An OPEN comes again only when its fd is closed everywhere.
    for (const { pending, anonFd } of this.#opens.values()) {
      pending.preempt(() => {
        this.#native.close(anonFd);
      });
    }
    for (const { pending } of this.#reads.values()) pending.withdraw();
    await this.#closeAll();
  }

  async #closeAll(): Promise<void> {
    for (const object of this.#objects.values()) {
      this.#closeObject(object);
      this.#handler?.closed(object);
    }
    this.#objects.clear();
    await Promise.all(this.#closing);
    this.#native.close(this.#deviceFd);
  }

  // Source: fs/cachefiles/ondemand.c, cachefiles_ondemand_restore(); kernel-notes/cachefiles-takeover.md.
  #restore(): void {
    try {
      this.#native.write(this.#deviceFd, encodeCommand("restore"));
    } catch (error) {
      const { message } = asDaemonError(error);
      this.#log.error(
        {},
        `this kernel cannot restore a session: who waited stays waiting (${message})`,
      );
    }
  }

  #drain(): void {
    const handler = this.#handler;
    if (handler === undefined) return;
    for (let left = MESSAGES_PER_TURN_MAX; left > 0; left -= 1) {
      if (!this.#takeMessage((deliver) => deliver(handler))) return;
    }
  }

  // Returns false when nothing is pending (read() gives 0, which is not an end of file).
  #takeMessage(deliver: (run: (handler: KernelHandler) => void) => void): boolean {
    let length: number;
    try {
      length = this.#native.readMessage(this.#deviceFd, this.#buffer);
    } catch (error) {
      if (isLostOpen(error)) {
        this.#log.error({ err: error }, "the kernel could not give us an OPEN, and has failed it");
        return true;
      }
      this.#fatal(error);
      return false;
    }
    if (length === 0) return false;
    const message = parseMessage(this.#buffer.subarray(0, length));
    this.messages[message.kind] += 1;
    switch (message.kind) {
      case "open": {
        const request = this.#openRequest(message);
        deliver((handler) => {
          handler.open(request);
        });
        break;
      }
      case "read": {
        const request = this.#readRequest(message);
        if (request !== undefined) {
          deliver((handler) => {
            handler.read(request);
          });
        }
        break;
      }
      case "close":
        this.#forgetObject(message.objectId);
        break;
      case "malformed":
        this.#failMalformed(message);
        break;
    }
    return true;
  }

  #openRequest(message: OpenMessage): OpenRequest {
    const { msgId, objectId, anonFd, volumeKey, cookieKey } = message;
    const pending = new PendingRequest(`OPEN ${msgId} of "${cookieKey}"`, () => {
      this.#opens.delete(msgId);
    });
    const accept = (sizeBytes: number): CacheObject | undefined => {
      let object: CacheObject | undefined;
      pending.answer(() => {
        if (!this.#copen(msgId, sizeBytes)) {
          this.#native.close(anonFd);
          return;
        }
        object = new CacheObject({
          native: this.#native,
          clock: this.#clock,
          writes: this.writes,
          id: objectId,
          volumeKey,
          cookieKey,
          anonFd,
        });
        this.#objects.set(objectId, object);
        this.#onObjects(this.objectCount);
      });
      return object;
    };
    const sendRefusal = (error: DaemonError): void => {
      this.#copen(msgId, -error.policy.errno);
      // No CLOSE follows a refused OPEN, and the next mount of the key hangs while the fd is open.
      this.#native.close(anonFd);
    };
    const refuse = (error: DaemonError): void => {
      pending.answer(() => {
        sendRefusal(error);
      });
    };
    this.#opens.set(msgId, { pending, sendRefusal, anonFd });
    return {
      volumeKey,
      cookieKey,
      accept,
      refuse,
      get answered() {
        return pending.answered;
      },
    };
  }

  /** False when the kernel no longer waits for this OPEN. */
  #copen(msgId: number, result: number): boolean {
    try {
      this.#native.write(this.#deviceFd, encodeCopen(msgId, result));
      return true;
    } catch (error) {
      this.#log.debug({ msgId, result, err: error }, "the kernel no longer waits for this OPEN");
      return false;
    }
  }

  #readRequest(message: ReadMessage): ReadRequest | undefined {
    const { msgId, objectId, extent } = message;
    this.messages.readBytes += extent.length;
    const object = this.#objects.get(objectId);
    if (object === undefined) {
      this.#log.warn({ msgId, objectId }, "READ for an object that is not open");
      return undefined;
    }
    // The same READ comes twice only after a `restore`; the first is still being served.
    if (this.#reads.has(msgId)) return undefined;
    object.markReady();
    const pending = new PendingRequest(`READ ${msgId} of "${object.cookieKey}"`, () => {
      this.#reads.delete(msgId);
    });
    const sendComplete = (): void => {
      this.#readComplete(object, msgId);
    };
    const complete = (): void => {
      pending.answer(sendComplete);
    };
    const { id } = pending;
    const { cookieKey: key } = object;
    this.#log.trace({ miss: id, msgId, objectId, key, ...extent }, "kernel READ");
    // A READ has no error reply: completed without data, the kernel looks once more and gives EIO.
    this.#reads.set(msgId, { pending, object, sendRefusal: sendComplete });
    return {
      id,
      object,
      extent,
      complete,
      fail: complete,
      get answered() {
        return pending.answered;
      },
    };
  }

  #readComplete(object: CacheObject, msgId: number): void {
    try {
      object.readComplete(msgId);
    } catch (error) {
      this.#log.error({ msgId, key: object.cookieKey, err: error }, "a READ cannot be answered");
    }
  }

  #forgetObject(objectId: number): void {
    const object = this.#objects.get(objectId);
    // CLOSE of an object that a dead daemon had: nothing of ours.
    if (object === undefined) return;
    this.#objects.delete(objectId);
    this.#onObjects(this.objectCount);
    for (const read of this.#reads.values()) {
      if (read.object === object) read.pending.withdraw();
    }
    this.#closeObject(object);
    this.#handler?.closed(object);
  }

  #closeObject(object: CacheObject): void {
    const closing = object
      .close()
      .catch((error: unknown) => {
        this.#log.error({ key: object.cookieKey, err: error }, "closing an anonymous fd failed");
      })
      .finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  #failMalformed(message: MalformedMessage): void {
    const error = new DaemonError({ code: "kernel_message_invalid", detail: message.reason });
    this.#log.error({ ...message }, `a kernel message cannot be served: ${error.message}`);
    if (message.opcode === OPCODE.open) {
      if (message.msgId !== undefined) this.#copen(message.msgId, -error.policy.errno);
      if (message.anonFd !== undefined) this.#native.close(message.anonFd);
    } else if (message.opcode === OPCODE.read && message.msgId !== undefined) {
      const object = this.#objects.get(message.objectId ?? -1);
      if (object !== undefined) this.#readComplete(object, message.msgId);
    }
  }

  #fatal(error: unknown): void {
    this.#watcher?.close();
    this.#onFatal?.(asDaemonError(error));
  }
}

// A read() that fails so has taken an OPEN off the queue and failed it; all else goes on.
const LOST_OPEN: readonly string[] = ["EMFILE", "ENFILE", "EFAULT", "EEXIST"];

function isLostOpen(error: unknown): boolean {
  if (!(error instanceof DaemonError) || error.fault.code !== "syscall_failed") return false;
  return LOST_OPEN.includes(error.fault.errnoName);
}
