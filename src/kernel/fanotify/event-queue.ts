// SPDX-License-Identifier: Apache-2.0
// Events of a fanotify group as they are taken and answered, each in the journal from the read that
// takes it until it is answered. What becomes of them is session.ts's business.
//
// Reads of the group, fstat of an event's fd and responses are microsecond calls on the event loop.

import { fstatSync } from "node:fs";
import { DaemonError } from "../../errors.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import type { Extent } from "../../units.ts";
import { type AccessEvent, encodeResponse, parseEvents } from "./codec.ts";
import type { EventJournal, LeftAccess } from "./journal.ts";
import { fileId } from "./stored-file.ts";

/** Somebody reads, and waits for an answer. */
export interface Access {
  /** By which the kernel knows it. */
  readonly fd: number;
  /** Undefined for one that another daemon had taken. */
  readonly pid: number | undefined;
  /** As fileId gives it; undefined when it is not known. */
  readonly file: string | undefined;
  readonly extent: Extent;
  /** `fd` is ours, open on the file or in place of one that was, and closed with the answer. */
  readonly isOurs: boolean;
  /** With daemons before us. */
  readonly waitedMs: number;
  slot: number | undefined;
}

export interface EventQueueParts {
  readonly native: Native;
  readonly log: Log;
  readonly groupFd: number;
  readonly journal: EventJournal;
  readonly messages: { malformed: number };
}

type Answer = "allow" | "deny";

export class EventQueue {
  readonly #parts: EventQueueParts;
  /** By number, what has one that may be given twice; with its answer, once there is one. */
  readonly #shared = new Map<number, Map<Access, Answer | undefined>>();
  #isHandedOver = false;

  constructor(parts: EventQueueParts) {
    this.#parts = parts;
  }

  /**
   * What the daemon before us had taken. Their numbers are occupied: an event of ours with the same
   * number could not be told from them. So nothing may be read from the group before. `occupied`
   * are already. Where something else of ours has a number now, it may be given again.
   */
  takeLeft(occupied: ReadonlySet<number>): Access[] {
    const { native, journal } = this.#parts;
    const seen = new Set<number>();
    return journal.left().map(({ fd, file, extent, slot, waitedMs }: LeftAccess) => {
      const isOurs = !seen.has(fd) && (occupied.has(fd) || native.occupyFd(fd));
      seen.add(fd);
      const access: Access = { fd, pid: undefined, file, extent, slot, isOurs, waitedMs };
      if (!isOurs) this.#share(access);
      return access;
    });
  }

  #share(access: Access): void {
    const sharers = this.#shared.get(access.fd) ?? new Map<Access, undefined>();
    this.#shared.set(access.fd, sharers.set(access, undefined));
  }

  /**
   * Reads once, and gives each access to `deliver`, which answers it or keeps it. False when
   * nothing was there. Throws what the group fails with, and when events were lost.
   */
  take(deliver: (access: Access) => void): boolean {
    const { native, groupFd, journal, log } = this.#parts;
    let length: number;
    try {
      length = native.readEvents(groupFd, journal.page);
    } catch (error) {
      if (!isLostEvent(error)) throw error;
      log.error({ err: error }, "the kernel could not give us an event, and has refused it");
      return true;
    }
    if (length === 0) return false;
    for (const event of parseEvents(journal.page.subarray(0, length))) {
      if (event.kind === "access") {
        this.#deliver(event, deliver);
      } else if (event.kind === "overflow") {
        this.#parts.messages.malformed += 1;
        // Cannot be: our queue has no limit. Whoever was let through may have read zeros.
        throw new DaemonError({ code: "kernel_message_invalid", detail: "events lost" });
      } else {
        this.#parts.messages.malformed += 1;
        log.error({}, `a fanotify event cannot be served: ${event.reason}`);
        if (event.fd !== undefined) this.#send(event.fd, "deny", true);
      }
    }
    journal.clearPage(length);
    return true;
  }

  #deliver({ fd, pid, extent }: AccessEvent, deliver: (access: Access) => void): void {
    let file: string | undefined;
    try {
      file = fileId(fstatSync(fd, { bigint: true }));
    } catch (error) {
      this.#parts.log.error({ err: error }, "an event's file cannot be looked at");
    }
    const access: Access = { fd, pid, file, extent, isOurs: true, waitedMs: 0, slot: undefined };
    if (this.#shared.has(fd)) this.#share(access);
    deliver(access);
  }

  /** It is not answered at once: it is to survive us. False, and refused, when that cannot be. */
  keep(access: Access): boolean {
    access.slot = this.#parts.journal.record(access.fd, access.file, access.extent);
    if (access.slot !== undefined) return true;
    this.#parts.log.error({}, "too many accesses at once: one is refused");
    this.answer(access, "deny");
    return false;
  }

  /** Once for each access. After handOver it does nothing. */
  answer(access: Access, how: Answer): void {
    if (this.#isHandedOver) return;
    const { fd, isOurs, slot } = access;
    if (this.#isLeftToOthers(access, how)) return;
    this.#send(fd, how, isOurs);
    if (slot !== undefined) this.#parts.journal.answered(slot);
  }

  /** Lets it through, maybe later, and gives its fd away: accesses through it raise no events. */
  answerKeepingFd(access: Access): number {
    const kept = { ...access, isOurs: false };
    const sharers = this.#shared.get(access.fd);
    if (sharers?.delete(access) === true) sharers.set(kept, undefined);
    this.answer(kept, "allow");
    return access.fd;
  }

  // The kernel gives an answer to whichever of them it finds first, so they are all answered at
  // once, when each may be: none is let through to what is not there.
  #isLeftToOthers(access: Access, how: Answer): boolean {
    const sharers = this.#shared.get(access.fd);
    if (sharers?.has(access) !== true) return false;
    sharers.set(access, how);
    const answers = [...sharers.values()];
    if (answers.includes(undefined)) return true;
    this.#shared.delete(access.fd);
    const one = answers.includes("deny") ? "deny" : "allow";
    const all = [...sharers.keys()];
    for (const { fd } of all) this.#send(fd, one, false);
    for (const { slot } of all) if (slot !== undefined) this.#parts.journal.answered(slot);
    if (all.some(({ isOurs }) => isOurs)) this.#parts.native.close(access.fd);
    return true;
  }

  /** Another daemon answers from now on. */
  handOver(): void {
    this.#isHandedOver = true;
  }

  // The response names the fd, so it comes first: a number that is free may be given again.
  #send(fd: number, how: Answer, closes: boolean): void {
    const { native, groupFd, log } = this.#parts;
    try {
      native.write(groupFd, encodeResponse(fd, how));
    } catch (error) {
      // ENOENT: the reader was killed meanwhile.
      if (errnoOf(error) !== "ENOENT") log.error({ err: error }, "an access cannot be answered");
    }
    if (closes) native.close(fd);
  }
}

// A read() that fails so has taken an event off the queue and refused it; all else goes on.
const LOST_EVENT: readonly string[] = ["EMFILE", "ENFILE", "ENOMEM", "ENXIO", "EACCES", "EPERM"];

function isLostEvent(error: unknown): boolean {
  const name = errnoOf(error);
  return name !== undefined && LOST_EVENT.includes(name);
}

function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof DaemonError) || error.fault.code !== "syscall_failed") return undefined;
  return error.fault.errnoName;
}
