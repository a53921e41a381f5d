// SPDX-License-Identifier: Apache-2.0
// fanotify with pre-content events as bytes: events the kernel sends, responses it takes. Pure.
// Source: Linux include/uapi/linux/fanotify.h and fanotify(7); what was seen is in
// kernel-notes/fanotify-events.md. Native-endian, and every platform we run on is little-endian.

import type { Extent } from "../../units.ts";

/** FAN_CLASS_PRE_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK, and no limits: what does not fit into a limited queue is let through unasked. */
export const GROUP_FLAGS = 0x8 | 0x1 | 0x2 | 0x10 | 0x20;
/** O_RDWR | O_LARGEFILE | O_CLOEXEC: how an event's file is opened for us; adoption.ts writes by such an fd. */
export const EVENT_FILE_FLAGS = 0o2100002;
export const MARK_ADD = 0x1;
export const MARK_REMOVE = 0x2;
export const PRE_ACCESS = 0x0010_0000;
const QUEUE_OVERFLOW = 0x4000;

/** Takes 85 events of one range each: so many fds come at once. */
export const EVENT_BUFFER_BYTES = 4096;
export const RESPONSE_BYTES = 8;

const EVENT_BYTES = 24;
const EVENT_VERSION = 3;
const INFO_BYTES = 4;
const INFO_RANGE = 6;
const RANGE_BYTES = 24;
const ALLOW = 1;
const DENY = 2;
const EIO = 5;

/** Somebody wants to read (or change) a part of a marked file, and waits. */
export interface AccessEvent {
  readonly kind: "access";
  /** Open on the file, and ours to close; names the event in its response. */
  readonly fd: number;
  readonly pid: number;
  readonly extent: Extent;
}

/** Events were lost: whoever they were about has been let through. */
export interface OverflowEvent {
  readonly kind: "overflow";
}

/** What cannot be served; with an fd there is somebody to be refused. */
export interface MalformedEvent {
  readonly kind: "malformed";
  readonly fd: number | undefined;
  readonly reason: string;
}

export type FanotifyEvent = AccessEvent | OverflowEvent | MalformedEvent;

/** All events of one read; `bytes` is exactly what it returned. Never throws. */
export function parseEvents(bytes: Uint8Array): FanotifyEvent[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const events: FanotifyEvent[] = [];
  for (let at = 0; at < view.byteLength; ) {
    const left = view.byteLength - at;
    const length = left < EVENT_BYTES ? 0 : view.getUint32(at, true);
    if (length < EVENT_BYTES || length > left) {
      // Where the next one begins is unknown too; this one's fd may be.
      const fd = left < EVENT_BYTES ? undefined : fdAt(view, at);
      const reason = `an event of ${length} bytes where ${left} are left`;
      events.push({ kind: "malformed", fd, reason });
      break;
    }
    events.push(parseEvent(new DataView(bytes.buffer, bytes.byteOffset + at, length)));
    at += length;
  }
  return events;
}

function parseEvent(view: DataView): FanotifyEvent {
  const fd = fdAt(view, 0);
  const version = view.getUint8(4);
  if (version !== EVENT_VERSION) {
    return { kind: "malformed", fd, reason: `events of version ${version}, not ${EVENT_VERSION}` };
  }
  const mask = Number(view.getBigUint64(8, true));
  if ((mask & QUEUE_OVERFLOW) !== 0) return { kind: "overflow" };
  if (fd === undefined) return { kind: "malformed", fd, reason: "an event without a file" };
  if (mask !== PRE_ACCESS) {
    return { kind: "malformed", fd, reason: `an event of kind 0x${mask.toString(16)}` };
  }
  const extent = rangeOf(view, view.getUint16(6, true));
  if (typeof extent === "string") return { kind: "malformed", fd, reason: extent };
  return { kind: "access", fd, pid: view.getInt32(20, true), extent };
}

/** Why there is none, otherwise. */
function rangeOf(view: DataView, headerBytes: number): Extent | string {
  for (let at = Math.max(headerBytes, EVENT_BYTES); at + INFO_BYTES <= view.byteLength; ) {
    const length = view.getUint16(at + 2, true);
    if (length < INFO_BYTES || at + length > view.byteLength) {
      return `an info record of ${length} bytes that does not fit its event`;
    }
    if (view.getUint8(at) === INFO_RANGE && length >= RANGE_BYTES) {
      const [offset, count] = [view.getBigUint64(at + 8, true), view.getBigUint64(at + 16, true)];
      const end = offset + count;
      if (end > BigInt(Number.MAX_SAFE_INTEGER)) {
        return `an access of ${count} bytes at ${offset}, past 2^53`;
      }
      return { offset: Number(offset), length: Number(count) };
    }
    at += length;
  }
  return "an event that does not say which bytes it is about (Linux before 6.15)";
}

function fdAt(view: DataView, at: number): number | undefined {
  const fd = view.getInt32(at + 16, true);
  return fd < 0 ? undefined : fd;
}

/** Lets the access go on, or fails it with EIO. */
export function encodeResponse(fd: number, answer: "allow" | "deny"): Uint8Array {
  const bytes = new Uint8Array(RESPONSE_BYTES);
  const view = new DataView(bytes.buffer);
  view.setInt32(0, fd, true);
  // FAN_DENY_ERRNO(EIO)
  view.setUint32(4, answer === "allow" ? ALLOW : (DENY | (EIO << 24)) >>> 0, true);
  return bytes;
}
