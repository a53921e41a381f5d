// SPDX-License-Identifier: Apache-2.0
// The files that are open at the fanotify door: one object a key, for as long as somebody holds it
// or the kernel has it mounted.
//
// A file is mounted by a link of its own, there for this opening only. When nobody uses the file
// the link goes first, and only when nobody has come by it is the mark taken away: no mount can
// find a file with holes that is not marked.

import { randomBytes } from "node:crypto";
import { mkdir, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { DaemonError, asDaemonError, invariant } from "../../errors.ts";
import { type Clock, sleep } from "../../platform/clock.ts";
import type { Log } from "../../platform/log.ts";
import type { Native } from "../../platform/native.ts";
import type { Extent } from "../../units.ts";
import { PendingRequest } from "../pending-request.ts";
import type { KernelHandler } from "../transport.ts";
import { CacheFile } from "./cache-file.ts";
import { MARK_ADD, MARK_REMOVE, PRE_ACCESS } from "./codec.ts";
import { FileObject } from "./file-object.ts";
import { type KeyName, cacheFileName, openDirectory, openPath, streamsDirectory } from "./names.ts";
import { CacheRoom, type RoomLimits } from "./room.ts";

/** How often it is asked whether files are still in use. */
const LOOK_EVERY_MS = 1000;
/** While a mount is awaited: it may come and go soon. */
const LOOK_SOON_MS = 50;
/** Whoever has found a link before it went has opened its file by then. */
const LINK_GONE_MS = 250;

export interface OpenFilesParts {
  readonly native: Native;
  readonly clock: Clock;
  readonly log: Log;
  /** Undefined: nobody can be asked, so files are mounted only when all of them is there. */
  readonly groupFd: number | undefined;
  readonly cacheDir: string;
  readonly limits: RoomLimits;
  readonly messages: { open: number; close: number };
  readonly writes: { writes: number; writtenBytes: number };
}

/** A stream that may be mounted until `release`, and then for as long as it is. */
export interface OpenedFile {
  readonly object: FileObject;
  /** What a mount names as its source, or as a device; nothing is there where nobody can be asked. */
  readonly path: string;
  /** The same, for a file of which all is there that anybody may read, and is verified. */
  readonly wholePath: () => Promise<string>;
  /** Idempotent. It can be mounted for `mountWithinMs` more, unless somebody has it mounted. */
  readonly release: (mountWithinMs: number) => void;
}

interface OpenEntry {
  readonly object: FileObject;
  readonly file: CacheFile;
  /** By path: what there is, or is about to be. */
  readonly links: Map<string, Promise<void>>;
  readonly target: string;
  /** Whoever has asked for it does not hold it yet. */
  isOpening: boolean;
  /** Until then somebody may be about to mount it. */
  awaitedUntilMs: number;
  closing: Promise<void> | undefined;
}

export class OpenFiles {
  readonly #parts: OpenFilesParts;
  readonly #room: CacheRoom;
  /** By key: on its way, or open. */
  readonly #opening = new Map<string, Promise<OpenEntry>>();
  readonly #entries = new Map<string, OpenEntry>();
  readonly #byId = new Map<string, OpenEntry>();
  readonly #opens = new Set<{ pending: PendingRequest; refuse: (error: DaemonError) => void }>();
  readonly #run = randomBytes(8).toString("hex");
  readonly #stopping = new AbortController();
  #handler: KernelHandler | undefined;
  #ids = 0;
  #cancelLook: (() => void) | undefined;

  constructor(parts: OpenFilesParts) {
    this.#parts = parts;
    this.#room = new CacheRoom(parts);
  }

  start(handler: KernelHandler): void {
    this.#handler = handler;
    this.#lookLater();
  }

  /** What is kept on disk, open or not. */
  get room(): Pick<CacheRoom, "list" | "drop"> {
    return this.#room;
  }

  get count(): number {
    return this.#entries.size;
  }

  byId(id: string): FileObject | undefined {
    return this.#byId.get(id)?.object;
  }

  /** What `object` holds is wrong: it is trusted no more, and deleted when nobody uses it. */
  async distrust(object: FileObject): Promise<void> {
    await this.#entries.get(idOf(object))?.file.distrust();
  }

  covers(object: FileObject, extent: Extent): boolean {
    return this.#entries.get(idOf(object))?.file.covers(extent) ?? false;
  }

  async open(key: KeyName): Promise<OpenedFile> {
    const id = idOf(key);
    for (;;) {
      this.#stopping.signal.throwIfAborted();
      const known = this.#entries.get(id);
      if (known?.closing !== undefined) {
        // It may turn out to be in use still.
        await known.closing;
        continue;
      }
      const entry = known ?? (await this.#opened(key));
      // Meanwhile it may have been found to be idle.
      if (this.#entries.get(id) !== entry || entry.closing !== undefined) continue;
      return this.#hold(entry);
    }
  }

  #opened(key: KeyName): Promise<OpenEntry> {
    const id = idOf(key);
    const opening = this.#opening.get(id);
    if (opening !== undefined) return opening;
    const made = this.#ask(key).finally(() => this.#opening.delete(id));
    this.#opening.set(id, made);
    return made;
  }

  #hold(entry: OpenEntry): OpenedFile {
    const { object } = entry;
    object.holds += 1;
    entry.isOpening = false;
    let isHeld = true;
    const release = (mountWithinMs: number): void => {
      if (!isHeld) return;
      isHeld = false;
      object.holds -= 1;
      const untilMs = this.#parts.clock.nowMs() + mountWithinMs;
      if (mountWithinMs > 0) entry.awaitedUntilMs = Math.max(entry.awaitedUntilMs, untilMs);
      this.#cancelLook?.();
      this.#lookLater();
    };
    const wholePath = () => this.#addLink(entry, true);
    return { object, path: this.#pathOf(entry, false), wholePath, release };
  }

  #ask(key: KeyName): Promise<OpenEntry> {
    const handler = this.#handler;
    invariant(handler !== undefined, "the door is not started");
    this.#parts.messages.open += 1;
    return new Promise((resolve, reject) => {
      const pending = new PendingRequest(`OPEN of "${key.cookieKey}"`, () => {
        this.#opens.delete(open);
      });
      const open = { pending, refuse: reject };
      this.#opens.add(open);
      handler.open({
        volumeKey: key.volumeKey,
        cookieKey: key.cookieKey,
        get answered() {
          return pending.answered;
        },
        accept: (sizeBytes) => {
          let object: FileObject | undefined;
          pending.answer(() => {
            object = this.#accept(key, sizeBytes, { resolve, reject });
          });
          return object;
        },
        refuse: (error) => {
          pending.answer(() => {
            reject(error);
          });
        },
      });
    });
  }

  #accept(
    key: KeyName,
    sizeBytes: number,
    told: { resolve: (entry: OpenEntry) => void; reject: (error: DaemonError) => void },
  ): FileObject {
    const id = (this.#ids += 1);
    const opening: Promise<CacheFile> = this.#openFile(key, sizeBytes);
    const object = new FileObject({
      id,
      key,
      sizeBytes,
      opening,
      writes: this.#parts.writes,
      onComplete: () => {
        this.#unmark(object);
      },
    });
    this.#link(object).then(told.resolve, (error: unknown) => {
      const fault = asDaemonError(error);
      object.close(fault);
      this.#handler?.closed(object);
      told.reject(fault);
    });
    return object;
  }

  async #openFile(key: KeyName, sizeBytes: number): Promise<CacheFile> {
    const { native, clock, log, cacheDir } = this.#parts;
    const path = join(streamsDirectory(cacheDir), cacheFileName(key, sizeBytes));
    return CacheFile.open({ native, clock, log, room: this.#room, path, key, sizeBytes });
  }

  // The mark before the link: whoever mounts by the link is asked about from its first read on.
  async #link(object: FileObject): Promise<OpenEntry> {
    const { cacheDir } = this.#parts;
    const file = await object.opening;
    const target = join("..", "streams", cacheFileName(object, object.sizeBytes));
    const state = { isOpening: true, awaitedUntilMs: 0, closing: undefined };
    const entry: OpenEntry = { object, file, links: new Map(), target, ...state };
    this.#entries.set(idOf(object), entry);
    this.#byId.set(file.id, entry);
    try {
      this.#stopping.signal.throwIfAborted();
      this.#mark(entry);
      await mkdir(openDirectory(cacheDir), { recursive: true, mode: 0o700 });
      if (this.#parts.groupFd !== undefined) await this.#addLink(entry, false);
      return entry;
    } catch (error) {
      this.#unmark(object);
      this.#forget(entry);
      await file.close();
      throw error;
    }
  }

  #pathOf({ object }: OpenEntry, isWhole: boolean): string {
    const file = cacheFileName(object, object.sizeBytes);
    return openPath(this.#parts.cacheDir, { run: this.#run, id: object.id, isWhole, file });
  }

  async #addLink(entry: OpenEntry, isWhole: boolean): Promise<string> {
    const path = this.#pathOf(entry, isWhole);
    const made = entry.links.get(path) ?? symlink(entry.target, path);
    entry.links.set(path, made);
    await made.catch((error: unknown) => {
      entry.links.delete(path);
      throw error;
    });
    return path;
  }

  #mark({ object, file }: OpenEntry): void {
    const { native, groupFd } = this.#parts;
    // What is complete by now is never marked: reading it costs nothing.
    if (object.isComplete || groupFd === undefined) return;
    native.fanotifyMark(groupFd, { flags: MARK_ADD, mask: PRE_ACCESS, fd: file.fd.number });
    object.isMarked = true;
  }

  #unmark(object: FileObject): void {
    const entry = this.#entries.get(idOf(object));
    const { native, groupFd, log } = this.#parts;
    if (!object.isMarked || entry?.object !== object || groupFd === undefined) return;
    object.isMarked = false;
    try {
      const fd = entry.file.fd.number;
      native.fanotifyMark(groupFd, { flags: MARK_REMOVE, mask: PRE_ACCESS, fd });
    } catch (error) {
      log.error({ key: object.cookieKey, err: error }, "a mark cannot be removed");
    }
  }

  #lookLater(): void {
    if (this.#stopping.signal.aborted) return;
    const isAwaiting = [...this.#entries.values()].some(({ awaitedUntilMs }) => awaitedUntilMs > 0);
    const delayMs = isAwaiting ? LOOK_SOON_MS : LOOK_EVERY_MS;
    this.#cancelLook = this.#parts.clock.after(delayMs, () => {
      for (const entry of this.#entries.values()) {
        if (entry.closing !== undefined || this.#isInUse(entry)) continue;
        entry.closing = this.#closeIfIdle(entry).catch((error: unknown) => {
          if (this.#stopping.signal.aborted) return;
          entry.closing = undefined;
          const { cookieKey } = entry.object;
          this.#parts.log.error({ key: cookieKey, err: error }, "a cache file cannot be closed");
        });
      }
      this.#lookLater();
    });
  }

  #isInUse(entry: OpenEntry): boolean {
    const { object, file } = entry;
    if (entry.isOpening || object.holds > 0 || object.accesses.size > 0) return true;
    if (!this.#isMounted(file)) return entry.awaitedUntilMs > this.#parts.clock.nowMs();
    entry.awaitedUntilMs = 0;
    return true;
  }

  #isMounted(file: CacheFile): boolean {
    try {
      return this.#parts.native.isOpenElsewhere(file.fd.number);
    } catch (error) {
      this.#parts.log.error({ err: error }, "it cannot be seen whether a cache file is in use");
      return true;
    }
  }

  async #closeIfIdle(entry: OpenEntry): Promise<void> {
    await this.#removeLinks(entry);
    await sleep(this.#parts.clock, LINK_GONE_MS, this.#stopping.signal);
    if (this.#isInUse(entry)) {
      for (const link of entry.links.keys()) await symlink(entry.target, link);
      entry.closing = undefined;
      return;
    }
    await this.#close(entry, this.#gone(entry.object));
  }

  async #removeLinks({ links }: OpenEntry): Promise<void> {
    for (const link of links.keys()) await rm(link, { force: true });
  }

  async #close(entry: OpenEntry, error: DaemonError): Promise<void> {
    const { object, file } = entry;
    this.#unmark(object);
    object.close(error);
    this.#forget(entry);
    this.#parts.messages.close += 1;
    this.#handler?.closed(object);
    await file.close();
  }

  #forget({ object, file }: OpenEntry): void {
    this.#entries.delete(idOf(object));
    this.#byId.delete(file.id);
  }

  #gone({ cookieKey }: FileObject): DaemonError {
    return new DaemonError({ code: "cancelled", what: `the cache object "${cookieKey}"` });
  }

  /** Closes everything; resolves with the keys of what is mounted and not complete. */
  async stop(error: DaemonError): Promise<string[]> {
    this.#stopping.abort(error);
    this.#room.stop();
    this.#cancelLook?.();
    for (const { pending, refuse } of this.#opens) {
      pending.preempt(() => {
        refuse(error);
      });
    }
    await Promise.allSettled(this.#opening.values());
    const left: string[] = [];
    for (const entry of this.#entries.values()) {
      await entry.closing;
      if (this.#entries.get(idOf(entry.object)) !== entry) continue;
      await this.#removeLinks(entry);
      entry.object.close(error);
      if (!entry.object.isComplete && this.#isMounted(entry.file))
        left.push(entry.object.cookieKey);
      await this.#close(entry, error);
    }
    return left;
  }
}

function idOf({ volumeKey, cookieKey }: KeyName): string {
  return `${volumeKey}\0${cookieKey}`;
}
