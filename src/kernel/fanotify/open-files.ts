// SPDX-License-Identifier: Apache-2.0
// The files that are open at the fanotify door: one object a key, for as long as somebody holds it
// or the kernel has it mounted.
//
// A file is mounted by a link of its own, there for this opening only. When nobody uses the file
// the link goes first, and only when nobody has come by it is the mark taken away: no mount can
// find a file with holes that is not marked.

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { DaemonError, asDaemonError, invariant } from "../../errors.ts";
import { sleep, within } from "../../platform/clock.ts";
import type { Extent } from "../../units.ts";
import type { KernelHandler } from "../transport.ts";
import type { Adoption } from "./adoption.ts";
import { CacheFile } from "./cache-file.ts";
import { FileObject } from "./file-object.ts";
import { FileLinks } from "./file-links.ts";
import { type LeftFile, forgetLeft } from "./left-files.ts";
import { Marks } from "./marks.ts";
import { type KeyName, cacheFileName, streamsDirectory } from "./names.ts";
import {
  type LeftOpen,
  type OpenEntry,
  type OpenFilesParts,
  type OpenedFile,
  adoptFile,
  idOf,
} from "./open-entry.ts";
import { type PendingOpen, type Told, requestOpen } from "./open-request.ts";
import { OrphanFiles, isOpenElsewhere } from "./orphan-files.ts";
import { CacheRoom } from "./room.ts";
import { UnservedFiles } from "./unserved-files.ts";

/** How often it is asked whether files are still in use. */
const LOOK_EVERY_MS = 1000;
/** While a mount is awaited: it may come and go soon. */
const LOOK_SOON_MS = 50;
/** Whoever has found a link before it went has opened its file by then. */
const LINK_GONE_MS = 250;
/** Who follows fetches again what is not recorded by then. */
const RECORD_LIMIT_MS = 1000;

export class OpenFiles {
  readonly #parts: OpenFilesParts;
  /** What is kept on disk, open or not. */
  readonly room: CacheRoom;
  /** By key: on its way, or open. */
  readonly #opening = new Map<string, Promise<OpenEntry>>();
  readonly #entries = new Map<string, OpenEntry>();
  /** Those of them that are not about to be gone. */
  readonly #byId = new Map<string, OpenEntry>();
  readonly #opens = new Set<PendingOpen>();
  readonly #run = randomBytes(8).toString("hex");
  readonly #stopping = new AbortController();
  readonly #marks: Marks;
  readonly #orphans: OrphanFiles;
  readonly #unserved: UnservedFiles;
  #adopted: Promise<void> = Promise.resolve();
  #handler: KernelHandler | undefined;
  #ids = 0;
  #cancelLook: (() => void) | undefined;

  constructor(parts: OpenFilesParts) {
    this.#parts = parts;
    this.#marks = new Marks(parts);
    const isMounted = this.#isMounted.bind(this);
    this.#orphans = new OrphanFiles({ ...parts, marks: this.#marks, isMounted });
    this.room = new CacheRoom(parts);
    this.#unserved = new UnservedFiles({
      ...parts,
      stopping: this.#stopping.signal,
      room: this.room,
      orphans: this.#orphans,
      pathOf: ({ key, sizeBytes }) => this.#pathOf(key, sizeBytes),
      serve: this.#serve.bind(this),
      onLess: ({ file }) => {
        parts.onCount(this.count);
        parts.onTakenUp?.(file);
      },
    });
  }

  start(handler: KernelHandler): void {
    this.#handler = handler;
    this.#lookLater();
  }

  get count(): number {
    return this.#entries.size + this.#orphans.count + this.#unserved.count;
  }

  /** What a daemon before us left (fileId), and is not served yet. */
  isUnserved(file: string): boolean {
    return this.#unserved.has(file);
  }

  get unservedCount(): number {
    return this.#unserved.count;
  }

  /** As it is now. What is complete and mounted needs nobody. */
  get isAnyMarkedMounted(): boolean {
    const entries = [...this.#byId.values()];
    return (
      this.#orphans.count > 0 ||
      this.#unserved.count > 0 ||
      entries.some(({ object, file }) => !object.isComplete && this.#isMounted(file.fd.number))
    );
  }

  readonly objects = () => [...this.#byId.values()].map(({ object }) => object);

  /**
   * Opens what a daemon before us left and is still mounted; nothing else is opened meanwhile.
   * Never rejects: what cannot be served is told and tried again, and its accesses are refused.
   */
  adopt(left: readonly LeftFile[], adoption: Adoption): Promise<void> {
    this.#adopted = this.#unserved.adopt(left, adoption).then(() => {
      this.#parts.onCount(this.count);
    });
    return this.#adopted;
  }

  async #serve(left: LeftFile, fd: number): Promise<void> {
    const entry = await this.#opened(left.key, { left, fd });
    entry.isOpening = false;
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
    await this.#adopted;
    const problem = this.#unserved.problem(id);
    if (problem !== undefined) throw problem;
    for (;;) {
      this.#stopping.signal.throwIfAborted();
      const known = this.#entries.get(id);
      if (known?.closing !== undefined) {
        // It may turn out to be in use still.
        await known.closing;
        continue;
      }
      const entry = known ?? (await this.#opened(key));
      if (this.#parts.groupFd !== undefined) await entry.links.add(false);
      // Meanwhile it may have been found to be idle.
      if (this.#entries.get(id) !== entry || entry.closing !== undefined) continue;
      return this.#hold(entry);
    }
  }

  #opened(key: KeyName, left?: LeftOpen): Promise<OpenEntry> {
    const id = idOf(key);
    const opening = this.#opening.get(id);
    if (opening !== undefined) return opening;
    const made = this.#ask(key, left).finally(() => this.#opening.delete(id));
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
    const wholePath = () => entry.links.add(true);
    return { object, path: entry.links.path(false), wholePath, release };
  }

  #ask(key: KeyName, left: LeftOpen | undefined): Promise<OpenEntry> {
    const handler = this.#handler;
    invariant(handler !== undefined, "the door is not started");
    this.#parts.messages.open += 1;
    return requestOpen({ handler, opens: this.#opens }, key, (sizeBytes, told) =>
      this.#accept({ key, sizeBytes, left }, told),
    );
  }

  #accept(
    { key, sizeBytes, left }: { key: KeyName; sizeBytes: number; left: LeftOpen | undefined },
    told: Told,
  ): FileObject {
    const id = (this.#ids += 1);
    const opening: Promise<CacheFile> = this.#openFile(key, sizeBytes, left);
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
    object.isMarked = left !== undefined;
    this.#link(object, left).then(told.resolve, (error: unknown) => {
      const fault = asDaemonError(error);
      object.close(fault);
      this.#handler?.closed(object);
      told.reject(fault);
    });
    return object;
  }

  #openFile(key: KeyName, sizeBytes: number, left?: LeftOpen): Promise<CacheFile> {
    const { native, clock, log } = this.#parts;
    const path = this.#pathOf(key, sizeBytes);
    const parts = { native, clock, log, room: this.room, path, key, sizeBytes };
    return left === undefined ? CacheFile.open(parts) : adoptFile(parts, left, this.#orphans);
  }

  #pathOf(key: KeyName, sizeBytes: number): string {
    return join(streamsDirectory(this.#parts.cacheDir), cacheFileName(key, sizeBytes));
  }

  // The mark before the link: whoever mounts by the link is asked about from its first read on.
  async #link(object: FileObject, left: LeftOpen | undefined): Promise<OpenEntry> {
    const { cacheDir, groupFd } = this.#parts;
    const file = await object.opening;
    const name = cacheFileName(object, object.sizeBytes);
    const links = new FileLinks(
      { cacheDir, name, run: this.#run, id: object.id },
      left?.left.links,
    );
    const state = { isOpening: true, awaitedUntilMs: 0, closing: undefined };
    const entry: OpenEntry = { object, file, links, ...state };
    this.#entries.set(idOf(object), entry);
    this.#byId.set(file.id, entry);
    this.#parts.onCount(this.count);
    try {
      this.#stopping.signal.throwIfAborted();
      if (left !== undefined && object.isComplete) this.#unmark(object);
      this.#mark(entry);
      if (groupFd === undefined) return entry;
      // Of what is mounted they are there: a full disk must not spoil it.
      if (left !== undefined) return entry;
      await links.note({ key: object, sizeBytes: object.sizeBytes, file: file.id });
      await links.add(false);
      return entry;
    } catch (error) {
      // One that is mounted keeps its mark whatever happens.
      if (left === undefined) {
        this.#unmark(object);
        await links.forget();
      }
      this.#forget(entry);
      await file.close();
      throw error;
    }
  }

  #mark({ object, file }: OpenEntry): void {
    // What is complete by now is never marked: reading it costs nothing.
    if (object.isComplete || this.#parts.groupFd === undefined) return;
    this.#marks.add(file.fd.number);
    object.isMarked = true;
  }

  #unmark(object: FileObject): void {
    const entry = this.#entries.get(idOf(object));
    if (!object.isMarked || entry?.object !== object) return;
    object.isMarked = false;
    this.#marks.remove(entry.file.fd.number);
  }

  #lookLater(): void {
    if (this.#stopping.signal.aborted) return;
    const isAwaiting = [...this.#entries.values()].some(({ awaitedUntilMs }) => awaitedUntilMs > 0);
    const delayMs = isAwaiting ? LOOK_SOON_MS : LOOK_EVERY_MS;
    this.#cancelLook = this.#parts.clock.after(delayMs, () => {
      void this.#orphans.look().then((isLess) => {
        if (isLess) this.#parts.onCount(this.count);
      });
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
    if (!this.#isMounted(file.fd.number)) return entry.awaitedUntilMs > this.#parts.clock.nowMs();
    entry.awaitedUntilMs = 0;
    return true;
  }

  #isMounted(fd: number): boolean {
    return isOpenElsewhere(this.#parts, fd);
  }

  async #closeIfIdle(entry: OpenEntry): Promise<void> {
    await entry.links.remove();
    await sleep(this.#parts.clock, LINK_GONE_MS, this.#stopping.signal);
    if (this.#isInUse(entry)) {
      await entry.links.restore();
      entry.closing = undefined;
      return;
    }
    await entry.links.forget();
    const what = `the cache object "${entry.object.cookieKey}"`;
    await this.#close(entry, new DaemonError({ code: "cancelled", what }));
  }

  async #close(entry: OpenEntry, error: DaemonError): Promise<void> {
    const { object, file } = entry;
    this.#unmark(object);
    object.close(error);
    this.#byId.delete(file.id);
    this.#parts.messages.close += 1;
    this.#handler?.closed(object);
    // Not before: whoever opens it anew must find its record, and whoever stops waits for it.
    await file.close().finally(() => this.#forget(entry));
  }

  #forget({ object, file }: OpenEntry): void {
    this.#entries.delete(idOf(object));
    this.#byId.delete(file.id);
    this.#parts.onCount(this.count);
  }

  #end(error: DaemonError): void {
    this.#stopping.abort(error);
    this.#cancelLook?.();
    this.room.stop();
    for (const { pending, refuse } of this.#opens) {
      pending.preempt(() => {
        refuse(error);
      });
    }
  }

  /** Closes everything; resolves with the keys of what is mounted and not complete. */
  async stop(error: DaemonError): Promise<string[]> {
    this.#end(error);
    await Promise.allSettled(this.#opening.values());
    const left: string[] = [];
    for (const entry of this.#entries.values()) {
      await entry.closing;
      if (this.#entries.get(idOf(entry.object)) !== entry) continue;
      await entry.links.forget();
      entry.object.close(error);
      if (!entry.object.isComplete && this.#isMounted(entry.file.fd.number))
        left.push(entry.object.cookieKey);
      await this.#close(entry, error);
    }
    for (const orphan of this.#orphans.close()) {
      left.push(orphan.key.cookieKey);
      await forgetLeft(orphan);
    }
    return left;
  }

  /** Closes our side of everything: marks, links and notes stay for the daemon that follows. */
  async handOver(error: DaemonError): Promise<void> {
    this.#end(error);
    await Promise.allSettled([this.#adopted, ...this.#opening.values()]);
    const entries = [...this.#entries.values()];
    const closing = entries.map(async ({ object, file, closing }) => {
      await closing;
      object.close(error);
      await file.close();
    });
    // Readers wait meanwhile: a slow disk must not hold them up.
    await within(this.#parts.clock, RECORD_LIMIT_MS, Promise.allSettled(closing));
    for (const { file } of entries) file.giveUpRecord();
    this.#orphans.close();
  }
}
