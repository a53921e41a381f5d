// SPDX-License-Identifier: Apache-2.0
// Mounts that the daemon makes and ends for whoever asks, and all that are there.
//
//   look at the mount point, and meanwhile for the image -> name it -> prepare its files, where
//     there are any -> mount, in a child -> mounted; what fails on the way leaves nothing behind
//
// Whoever asks may go away meanwhile: the work goes on, and ends by itself or when its mount
// point is removed.

import { resolve } from "node:path";
import type { DoorWish } from "../config/config.ts";
import { DaemonError } from "../errors.ts";
import type { PreparedFiles } from "../file-mounts.ts";
import type { NameResolver } from "../flow/name-resolver.ts";
import { cookieKeyProblem, volumePartProblem } from "../kernel/cachefiles/keys.ts";
import type { MountChild } from "../kernel/mount-child.ts";
import type { MountOrder } from "../kernel/mount-orders.ts";
import { unfit } from "../kernel/mount-point.ts";
import type { MountEntry } from "../kernel/mountinfo.ts";
import type { MountDoors, MountWay } from "../mount-doors.ts";
import type { Log } from "../platform/log.ts";
import type { Binding, Bindings, CookieName } from "../state/bindings.ts";
import { type KnownImage, type OurMount, listOurMounts } from "./mount-list.ts";

/** The daemon's own deadline for an OPEN has then told the cause. */
const GRACE_MS = 1000;
/** Under way at once. */
const UNDER_WAY_MAX = 64;

export interface MountsParts {
  readonly log: Log;
  readonly domainId: string;
  readonly cacheDir: string;
  /** The kernel's part of a mount takes at most so long, ms. */
  readonly openTimeoutMs: number;
  readonly names: Pick<NameResolver, "prepare">;
  readonly bindings: Pick<Bindings, "all" | "revision" | "setFill">;
  /** Looks again what is to be filled in the background. */
  readonly fill: () => void;
  readonly doors: Pick<MountDoors, "pick">;
  readonly startChild: () => MountChild;
  /** What has failed of a key since then, ms since 1970. */
  readonly failureSince: (cookieKey: string, sinceMs: number) => DaemonError | undefined;
  /** Aborts when the daemon stops. */
  readonly stopping: AbortSignal;
  /** What is mounted; the same array again means that nothing has changed. */
  readonly listEntries: () => Promise<readonly MountEntry[]>;
}

export interface MountWish {
  readonly reference: string;
  readonly mountPoint: string;
  readonly door: DoorWish;
  /** How the image is filled from now on; undefined: as it was. */
  readonly fill: Binding["fill"];
}

export interface MadeMount {
  readonly mountPoint: string;
  readonly door: MountWay["kind"];
  readonly image: KnownImage;
  /** The mount that is shown here too, where the kernel mounts an image but once. */
  readonly sharedWith: string | undefined;
}

/** A mount that is not there yet. */
export interface PendingMount {
  readonly wish: MountWish;
  door: MountWay["kind"] | undefined;
  image: KnownImage | undefined;
  /** Of a whole image, in logical bytes. */
  progress: { doneBytes: number; totalBytes: number } | undefined;
}

interface UnderWay extends PendingMount {
  target: string | undefined;
  readonly abort: AbortController;
  work: Promise<MadeMount> | undefined;
}

export class Mounts {
  readonly #parts: MountsParts;
  readonly #underWay = new Set<UnderWay>();
  /** Another number after every change of what is under way, but for its progress. */
  #revision = 0;
  #listed:
    | {
        readonly entries: readonly MountEntry[];
        readonly revision: number;
        readonly mounts: Promise<readonly OurMount[]>;
      }
    | undefined;

  constructor(parts: MountsParts) {
    this.#parts = parts;
  }

  /**
   * Mounts an image. Whoever asks for the same at the same time shares the work. Faults:
   * request_invalid for a mount point that will not do, what the image fails with, door_closed,
   * mount_failed, deadline_exceeded, cancelled when it was removed meanwhile.
   */
  create(wish: MountWish): Promise<MadeMount> {
    for (const { wish: other, work } of this.#underWay) {
      const isSame = (["reference", "door", "fill"] as const).every(
        (key) => other[key] === wish[key],
      );
      if (other.mountPoint !== wish.mountPoint) continue;
      if (isSame && work !== undefined) return work;
      return Promise.reject(
        unfit(wish.mountPoint, "is in use: another image is being mounted there"),
      );
    }
    if (this.#underWay.size >= UNDER_WAY_MAX) {
      const detail = `${UNDER_WAY_MAX} images are being mounted already`;
      return Promise.reject(new DaemonError({ code: "daemon_busy", detail }));
    }
    const nothing = { target: undefined, door: undefined, image: undefined, progress: undefined };
    const abort = new AbortController();
    const pending: UnderWay = { wish, abort, work: undefined, ...nothing };
    this.#underWay.add(pending);
    this.#revision += 1;
    pending.work = this.#create(pending).finally(() => {
      this.#underWay.delete(pending);
      this.#revision += 1;
    });
    return pending.work;
  }

  /** What is mounted, whoever did it; the same array as long as nothing has changed. */
  async list(): Promise<readonly OurMount[]> {
    const { bindings, cacheDir, listEntries } = this.#parts;
    const entries = await listEntries();
    const { revision } = bindings;
    const listed = this.#listed;
    if (listed?.entries === entries && listed.revision === revision) return listed.mounts;
    const mounts = listOurMounts({ entries, images: bindings.all(), cacheDir });
    this.#listed = { entries, revision, mounts };
    return mounts;
  }

  get revision(): number {
    return this.#revision;
  }

  /** What is about to be. */
  get pending(): readonly PendingMount[] {
    return [...this.#underWay];
  }

  /** Where an image is mounted, or about to be. */
  async mountsOf({ volumeKey, cookieKey }: CookieName): Promise<string[]> {
    const isIt = (image: CookieName | undefined): boolean =>
      image?.volumeKey === volumeKey && image.cookieKey === cookieKey;
    const there = (await this.list()).filter(({ image }) => isIt(image));
    const soon = this.pending.filter(({ image }) => isIt(image));
    return [
      ...there.map(({ mountPoint }) => mountPoint),
      ...soon.map(({ wish }) => wish.mountPoint),
    ];
  }

  /** Gives up a mount that is not there yet: its mount point, as it was asked for. */
  giveUp(mountPoint: string): string | undefined {
    const target = resolve("/", mountPoint);
    for (const { wish, target: real, abort } of this.#underWay) {
      if (wish.mountPoint !== mountPoint && real !== target) continue;
      abort.abort(new DaemonError({ code: "cancelled", what: `mounting at ${wish.mountPoint}` }));
      return wish.mountPoint;
    }
    return undefined;
  }

  /**
   * Unmounts an image, or gives up mounting it. Faults: mount_unknown, mount_busy,
   * deadline_exceeded.
   */
  async remove(mountPoint: string, { lazy }: { lazy: boolean }): Promise<{ mountPoint: string }> {
    const target = resolve("/", mountPoint);
    const givenUp = this.giveUp(mountPoint);
    if (givenUp !== undefined) return { mountPoint: givenUp };
    await this.#checkOurs(target);
    const child = this.#parts.startChild();
    try {
      await child.carryOut({ kind: "unmount", target, lazy }, this.#limitMs, this.#parts.stopping);
    } catch (error) {
      throw errnoOf(error) === "EBUSY" ? new DaemonError({ code: "mount_busy", target }) : error;
    } finally {
      child.close();
    }
    this.#parts.log.info({ mountPoint: target }, "unmounted");
    return { mountPoint: target };
  }

  get #limitMs(): number {
    return this.#parts.openTimeoutMs + GRACE_MS;
  }

  async #checkOurs(target: string): Promise<void> {
    const { listEntries } = this.#parts;
    const isThere = ({ mountPoint }: { mountPoint: string }): boolean => mountPoint === target;
    const here = (await listEntries()).findLast(isThere);
    const ours = (await this.list()).findLast(isThere);
    if (here !== undefined && here.fsType === "erofs" && ours !== undefined) return;
    const detail =
      here === undefined ? "nothing is mounted there" : `${here.fsType} is mounted there`;
    throw new DaemonError({ code: "mount_unknown", target, detail });
  }

  async #create(pending: UnderWay): Promise<MadeMount> {
    const { names, startChild, stopping, log } = this.#parts;
    const { wish, abort } = pending;
    const unready = new AbortController();
    const signal = AbortSignal.any([abort.signal, stopping, unready.signal]);
    const child = startChild();
    try {
      // A child takes as long to start as a registry to answer.
      const ready = this.#ready(pending, child, signal);
      ready.catch((error: unknown) => unready.abort(error));
      const image = await names.prepare(wish.reference, { fsid: undefined, signal, ready });
      const { target, way } = await ready;
      pending.image = image;
      this.#revision += 1;
      if (wish.fill !== undefined) {
        await this.#parts.bindings.setFill(image, wish.fill);
        this.#parts.fill();
      }
      const order = (one: MountOrder): Promise<string> =>
        child.carryOut(one, this.#limitMs, signal);
      const sharedWith =
        way.files === undefined
          ? await this.#mountFscache(image, target, order)
          : await this.#mountFiles(pending, way.files, { way, image, target, signal, order });
      log.info({ mountPoint: target, reference: wish.reference, door: way.kind }, "mounted");
      return { mountPoint: target, door: way.kind, image, sharedWith };
    } finally {
      child.close();
    }
  }

  /** Where and how it is mounted. */
  async #ready(
    pending: UnderWay,
    child: MountChild,
    signal: AbortSignal,
  ): Promise<{ target: string; way: MountWay }> {
    const { wish } = pending;
    const look = { kind: "look", path: wish.mountPoint } as const;
    const target = await child.carryOut(look, this.#limitMs, signal);
    this.#claim(pending, target);
    const way = await this.#parts.doors.pick(wish.door);
    pending.door = way.kind;
    this.#revision += 1;
    return { target, way };
  }

  #claim(pending: UnderWay, target: string): void {
    for (const other of this.#underWay) {
      if (other === pending || other.target !== target) continue;
      throw unfit(pending.wish.mountPoint, "is in use: another image is being mounted there");
    }
    pending.target = target;
  }

  /** Returns the mount point whose mount is shared, undefined for a mount of its own. */
  async #mountFscache(
    { cookieKey, binding }: KnownImage,
    target: string,
    order: (one: MountOrder) => Promise<string>,
  ): Promise<string | undefined> {
    const { domainId } = this.#parts;
    const startMs = Date.now();
    // A Nydus bootstrap names its devices itself.
    const devices = binding.devices
      .filter(({ format }) => format === undefined)
      .map(({ digest }) => digest);
    refuseDangerousKeys(domainId, [cookieKey, ...devices]);
    try {
      await order({ kind: "mount", image: { fsid: cookieKey, domainId, devices }, target });
    } catch (error) {
      const errno = errnoOf(error);
      const there =
        errno === "EEXIST" || errno === "EBUSY" ? await this.#mountOf(cookieKey) : undefined;
      if (there !== undefined) {
        await order({ kind: "bind", source: there, target });
        return there;
      }
      throw this.#causeOf([cookieKey, ...devices], startMs) ?? failed(error, target);
    }
    // The kernel mounts an image whose device could not be opened; its files would fail one by one.
    const cause = this.#causeOf(devices, startMs);
    if (cause === undefined) return undefined;
    await order({ kind: "unmount", target, lazy: true });
    throw cause;
  }

  async #mountOf(fsid: string): Promise<string | undefined> {
    const { domainId } = this.#parts;
    const there = (await this.list()).findLast(
      (one) => one.fsid === fsid && one.domainId === domainId && one.root === "/",
    );
    return there?.mountPoint;
  }

  async #mountFiles(
    pending: UnderWay,
    files: NonNullable<MountWay["files"]>,
    by: {
      way: MountWay;
      image: KnownImage;
      target: string;
      signal: AbortSignal;
      order: (one: MountOrder) => Promise<string>;
    },
  ): Promise<undefined> {
    const { way, image, target, signal, order } = by;
    const onProgress = (doneBytes: number, totalBytes: number): void => {
      pending.progress = { doneBytes, totalBytes };
    };
    const { isWhole } = way;
    let prepared: PreparedFiles | undefined;
    try {
      prepared = await files.prepare(image, { signal, isWhole, onProgress });
      const paths = { primary: prepared.primary, devices: [...prepared.devices] };
      await order({ kind: "mount-files", image: paths, target, mayLoop: isWhole });
    } catch (error) {
      throw failed(error, target);
    } finally {
      prepared?.release(0);
    }
    return undefined;
  }

  #causeOf(keys: readonly string[], sinceMs: number): DaemonError | undefined {
    for (const key of keys) {
      const cause = this.#parts.failureSince(key, sinceMs);
      if (cause !== undefined) return cause;
    }
    return undefined;
  }
}

function refuseDangerousKeys(domainId: string, keys: readonly string[]): void {
  const problems = [
    { key: domainId, detail: volumePartProblem(domainId) },
    ...keys.map((key) => ({ key, detail: cookieKeyProblem(key) })),
  ];
  for (const { key, detail } of problems) {
    if (detail !== undefined) throw new DaemonError({ code: "key_refused", key, detail });
  }
}

function failed(error: unknown, target: string): unknown {
  if (errnoOf(error) === undefined || !(error instanceof DaemonError)) return error;
  return new DaemonError({ code: "mount_failed", target, detail: error.message }, { cause: error });
}

function errnoOf(error: unknown): string | undefined {
  return error instanceof DaemonError && error.fault.code === "syscall_failed"
    ? error.fault.errnoName
    : undefined;
}
