// SPDX-License-Identifier: Apache-2.0
// The control operations, told in the rooms' terms. Remembers the last failure of each key,
// since the kernel shows whoever mounts only ENOBUFS or EIO.

import { LRUCache } from "lru-cache";
import { diskUsage } from "../cache/usage.ts";
import { viewConfig } from "../config/config-view.ts";
import type { Config } from "../config/config.ts";
import { DaemonError } from "../errors.ts";
import type { PrepareOptions, PreparedFiles } from "../file-mounts.ts";
import type { NameResolver } from "../flow/name-resolver.ts";
import { cookieKeyProblem } from "../kernel/cachefiles/keys.ts";
import type { Clock } from "../platform/clock.ts";
import type { Mounts } from "../mounts/mounts.ts";
import type { PushedCredentials } from "../source/registry/credentials/pushed.ts";
import type { Binding, Bindings, CookieName } from "../state/bindings.ts";
import type { CacheOperations } from "./cache-operations.ts";
import type { ControlOperations } from "./control-operations.ts";
import type { EventHub } from "./event-hub.ts";
import { failureOf } from "./failures.ts";
import type { KnownImages } from "./known-images.ts";
import { mountOperations } from "./mount-operations.ts";
import type { PrefetchOperations } from "./prefetch-operations.ts";
import type { PastFailure, RegisterRequest, RegisteredImage, Status } from "./schema.ts";
import { whileWaited } from "./while-waited.ts";

const FAILURES_MAX = 1024;
/** Under way at once; whoever is gone may have left some. */
const REGISTRATIONS_MAX = 64;
const FAILURE_KEPT_MS = 10 * 60_000;
/** So long after the answer an image's files can be mounted. */
const MOUNT_WITHIN_MS = 30_000;

export class FailureLog {
  readonly #failures = new LRUCache<string, { error: DaemonError; atMs: number }>({
    max: FAILURES_MAX,
    ttl: FAILURE_KEPT_MS,
  });

  record(cookieKey: string, error: DaemonError): void {
    this.#failures.set(cookieKey, { error, atMs: Date.now() });
  }

  last(cookieKey: string): PastFailure {
    const last = this.#failures.get(cookieKey);
    return last === undefined ? undefined : { ...failureOf(last.error), atMs: last.atMs };
  }

  /** The last one, when it was not before `sinceMs`, ms since 1970. */
  since(cookieKey: string, sinceMs: number): DaemonError | undefined {
    const last = this.#failures.get(cookieKey);
    return last !== undefined && last.atMs >= sinceMs ? last.error : undefined;
  }
}

/** Where the daemon is in its life: `starting -> ready -> stopping`, or its door's last word. */
export class Readiness {
  #problem: DaemonError | undefined = new DaemonError({
    code: "daemon_not_ready",
    detail: "the daemon is starting",
  });

  ready(): void {
    this.#problem = undefined;
  }

  stop(error: DaemonError): void {
    this.#problem = error;
  }

  get isReady(): boolean {
    return this.#problem === undefined;
  }

  /** Throws why nothing is served. */
  check(): void {
    if (this.#problem !== undefined) throw this.#problem;
  }
}

export interface OperationsParts {
  readonly clock: Clock;
  readonly config: Config;
  readonly version: string;
  readonly names: Pick<NameResolver, "prepare">;
  readonly bindings: Pick<Bindings, "setFill">;
  /** Looks again what is to be filled in the background. */
  readonly fill: () => void;
  readonly upgrade: ControlOperations["upgrade"];
  /** Where the kernel does not ask for an image when it is mounted. */
  readonly files:
    | {
        prepare(
          image: CookieName & { readonly binding: Binding },
          options: PrepareOptions,
        ): Promise<PreparedFiles>;
      }
    | undefined;
  readonly mounts: Pick<Mounts, "create" | "giveUp" | "list" | "pending" | "remove" | "revision">;
  readonly images: KnownImages;
  readonly failures: FailureLog;
  readonly pushed: PushedCredentials;
  readonly readiness: Readiness;
  readonly events: EventHub;
  readonly status: () => Status;
  readonly activity: ControlOperations["activity"];
  readonly metrics: ControlOperations["metrics"];
  readonly trace: ControlOperations["trace"];
  readonly prefetch: PrefetchOperations;
  readonly cache: CacheOperations;
  readonly changeConfig: ControlOperations["changeConfig"];
  readonly imageFiles: ControlOperations["imageFiles"];
  readonly imageHistory: ControlOperations["imageHistory"];
  /** Aborts when the daemon stops, and with it what is being registered. */
  readonly stopping: AbortSignal;
}

/** What the daemon answers its control socket with. */
export function controlOperations(parts: OperationsParts): ControlOperations {
  const { clock, config, version, images, failures, events } = parts;
  const startMs = clock.nowMs();
  return {
    health() {
      const uptimeSeconds = Math.round(clock.nowMs() - startMs) / 1000;
      return { status: "ok", version, pid: process.pid, uptimeSeconds };
    },
    checkReady() {
      parts.readiness.check();
    },
    config: () => viewConfig(config),
    register: sharedRegistration(parts),
    images: () => images.list(),
    image: (name) => images.inspect(name),
    async cacheUsage() {
      const { dir, brun, bcull, bstop } = config.cache;
      const openBytes = parts.status().objects.reduce((sum, each) => sum + each.cachedBytes, 0);
      return { dir, ...(await diskUsage(dir)), openBytes, limitsPercent: { brun, bcull, bstop } };
    },
    lastFailure: (cookieKey) => failures.last(cookieKey),
    status: parts.status,
    activity: parts.activity,
    metrics: parts.metrics,
    trace: parts.trace,
    upgrade: parts.upgrade,
    imageFiles: parts.imageFiles,
    imageHistory: parts.imageHistory,
    events: (signal) => events.listen(signal),
    ...mountOperations(parts),
    ...credentialOperations(parts.pushed),
    ...parts.prefetch,
    ...parts.cache,
    changeConfig: parts.changeConfig,
  };
}

/** Whoever asks for the same at the same time shares the work, which goes on when nobody waits. */
function sharedRegistration(parts: OperationsParts): ControlOperations["register"] {
  const underWay = new Map<string, Promise<RegisteredImage>>();
  return async (request, signal) => {
    const key = JSON.stringify([request.reference, request.fsid, request.fill]);
    let work = underWay.get(key);
    if (work === undefined) {
      if (underWay.size >= REGISTRATIONS_MAX) {
        const detail = `${REGISTRATIONS_MAX} images are being registered already`;
        throw new DaemonError({ code: "daemon_busy", detail });
      }
      work = registerImage(parts, request).finally(() => underWay.delete(key));
      underWay.set(key, work);
    }
    return whileWaited(work, signal);
  };
}

async function registerImage(
  { names, bindings, fill: lookAtFills, files: mounted, config, stopping }: OperationsParts,
  { reference, fsid, fill }: RegisterRequest,
): Promise<RegisteredImage> {
  const problem = fsid === undefined ? undefined : cookieKeyProblem(fsid);
  if (fsid !== undefined && problem !== undefined) {
    throw new DaemonError({ code: "key_refused", key: fsid, detail: problem });
  }
  const image = await names.prepare(reference, { fsid, signal: stopping });
  const { cookieKey, binding } = image;
  if (fill !== undefined) {
    await bindings.setFill(image, fill);
    lookAtFills();
  }
  const files = await mounted?.prepare(image, { signal: stopping, isWhole: false });
  files?.release(MOUNT_WITHIN_MS);
  return {
    reference: binding.reference,
    manifestDigest: binding.manifestDigest,
    fsid: cookieKey,
    domainId: config.kernel.domain_id,
    // A Nydus bootstrap names its devices itself.
    devices: binding.devices
      .filter(({ format }) => format === undefined)
      .map(({ digest }) => digest),
    ...(files === undefined
      ? {}
      : { files: { primary: files.primary, devices: [...files.devices] } }),
    sizeBytes: [binding.stream, ...binding.devices].reduce((sum, each) => sum + each.size, 0),
  };
}

export function credentialOperations(
  pushed: PushedCredentials,
): Pick<ControlOperations, "pushCredentials" | "dropCredentials"> {
  return {
    pushCredentials({ host, repository, ...given }) {
      pushed.set(host, repository, "token" in given ? { bearer: given.token } : given);
    },
    dropCredentials: ({ host, repository }) => pushed.delete(host, repository),
  };
}
