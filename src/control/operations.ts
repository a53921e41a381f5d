// SPDX-License-Identifier: Apache-2.0
// The control operations, told in the rooms' terms. Remembers the last failure of each key,
// since the kernel shows whoever mounts only ENOBUFS or EIO.

import { LRUCache } from "lru-cache";
import { DaemonError } from "../errors.ts";
import type { MountFiles } from "../file-mounts.ts";
import type { NameResolver } from "../flow/name-resolver.ts";
import { cookieKeyProblem } from "../kernel/cachefiles/keys.ts";
import type { PushedCredentials } from "../source/registry/credentials/pushed.ts";
import type { PastFailure, RegisteredImage, Status } from "./schema.ts";
import type { Binding, CookieName } from "../state/bindings.ts";
import type { ControlOperations } from "./server.ts";

const FAILURES_MAX = 1024;
const FAILURE_KEPT_MS = 10 * 60_000;

export class FailureLog {
  readonly #failures = new LRUCache<string, NonNullable<PastFailure>>({
    max: FAILURES_MAX,
    ttl: FAILURE_KEPT_MS,
  });

  record(cookieKey: string, error: DaemonError): void {
    const { code } = error.fault;
    const hint = error.policy.hint;
    this.#failures.set(cookieKey, { code, message: error.message, hint, atMs: Date.now() });
  }

  last(cookieKey: string): PastFailure {
    return this.#failures.get(cookieKey);
  }
}

export function controlOperations(parts: {
  readonly names: NameResolver;
  /** Where the kernel does not ask for an image when it is mounted. */
  readonly mounts:
    | {
        prepare(
          image: CookieName & { readonly binding: Binding },
          signal: AbortSignal,
        ): Promise<MountFiles>;
      }
    | undefined;
  readonly failures: FailureLog;
  readonly pushed: PushedCredentials;
  readonly domainId: string;
  readonly status: () => Status;
  readonly metrics: ControlOperations["metrics"];
  readonly trace: ControlOperations["trace"];
}): ControlOperations {
  return {
    async register({ reference, fsid }, signal): Promise<RegisteredImage> {
      const problem = fsid === undefined ? undefined : cookieKeyProblem(fsid);
      if (fsid !== undefined && problem !== undefined) {
        throw new DaemonError({ code: "key_refused", key: fsid, detail: problem });
      }
      const image = await parts.names.prepare(reference, { fsid, signal });
      const { cookieKey, binding } = image;
      const files = await parts.mounts?.prepare(image, signal);
      return {
        reference: binding.reference,
        manifestDigest: binding.manifestDigest,
        fsid: cookieKey,
        domainId: parts.domainId,
        // A Nydus bootstrap names its devices itself.
        devices: binding.devices
          .filter(({ format }) => format === undefined)
          .map(({ digest }) => digest),
        ...(files === undefined
          ? {}
          : { files: { primary: files.primary, devices: [...files.devices] } }),
        sizeBytes: [binding.stream, ...binding.devices].reduce((sum, each) => sum + each.size, 0),
      };
    },
    lastFailure: (cookieKey) => parts.failures.last(cookieKey),
    status: parts.status,
    metrics: parts.metrics,
    trace: parts.trace,
    ...credentialOperations(parts.pushed),
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
