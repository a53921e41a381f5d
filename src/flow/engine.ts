// SPDX-License-Identifier: Apache-2.0
// The fill engine: all streams being served and the objects the kernel has open on them.
// It is handed its clock, its source and its buffers, so a test can drive it.

import { createHash } from "node:crypto";
import { DaemonError } from "../errors.ts";
import { rawChunkMap } from "../image/chunk-map.ts";
import type { KernelObject, ReadRequest } from "../kernel/transport.ts";
import { type BlobLocation, type Source, formatOrigin } from "../source/source.ts";
import type { Digest } from "../units.ts";
import type { OpenObject } from "./open-object.ts";
import { queuedRead, serveRead } from "./serve-request.ts";
import { type FlowParts, type Stream, StreamFlow } from "./stream-flow.ts";

interface Served {
  readonly flow: StreamFlow;
  readonly object: OpenObject;
}

export interface EngineParts extends FlowParts {
  readonly source: Source;
}

export class Engine {
  readonly #parts: EngineParts;
  readonly #flows = new Map<Digest, StreamFlow>();
  readonly #served = new Map<KernelObject, Served>();

  constructor(parts: EngineParts) {
    this.#parts = parts;
  }

  /** The flow of a stream, one for all its objects. It is forgotten when nothing is open on it. */
  flowOf(blob: BlobLocation): StreamFlow {
    const known = this.#flows.get(blob.digest);
    // An idle one is made anew: its bytes may come from another origin now.
    if (known !== undefined && !known.isIdle) {
      if (known.stream.map.sizeBytes === blob.size) return known;
      throw new DaemonError({
        code: "image_invalid",
        where: formatOrigin(blob.origin),
        detail: `blob ${blob.digest} is ${blob.size} bytes here, and ${known.stream.map.sizeBytes} in an image that is mounted`,
      });
    }
    const flow = new StreamFlow(this.#rawStream(blob), this.#parts);
    for (const [digest, other] of this.#flows) if (other.isIdle) this.#flows.delete(digest);
    this.#flows.set(blob.digest, flow);
    return flow;
  }

  /** Asks the source for the last byte: true when the blob is as long as `blob.size` says. */
  async confirmSize(blob: BlobLocation): Promise<boolean> {
    const { clock, limits, source } = this.#parts;
    const signal = new AbortController().signal;
    const deadlineMs = clock.nowMs() + limits.readTimeoutMs;
    try {
      const last = { offset: blob.size - 1, length: 1 };
      await source.readRange(blob, last, () => undefined, { signal, deadlineMs });
      return true;
    } catch {
      return false;
    }
  }

  /** Starts serving an object that the kernel has just opened. */
  serve(blob: BlobLocation, kernel: KernelObject): void {
    const flow = this.flowOf(blob);
    const served = { flow, object: flow.attach(kernel) };
    this.#served.set(kernel, served);
    void this.#load(served);
  }

  read(request: ReadRequest): void {
    const served = this.#served.get(request.object);
    if (served === undefined) {
      request.fail(new DaemonError({ code: "cancelled", what: "a read of a closed object" }));
    } else if (served.object.queued === undefined) {
      serveRead(served.flow, served.object, request);
    } else {
      served.object.queued.push(queuedRead(served.flow, served.object, request));
    }
  }

  closed(kernel: KernelObject): void {
    const served = this.#served.get(kernel);
    if (served === undefined) return;
    this.#served.delete(kernel);
    served.flow.detach(served.object);
    this.#parts.log.info(
      { key: kernel.cookieKey, cachedBytes: served.object.blocks.cachedBytes },
      "object closed",
    );
  }

  isOpen(volumeKey: string, cookieKey: string): boolean {
    for (const kernel of this.#served.keys()) {
      if (kernel.volumeKey === volumeKey && kernel.cookieKey === cookieKey) return true;
    }
    return false;
  }

  get openObjects(): readonly { cookieKey: string; cachedBytes: number; sizeBytes: number }[] {
    return [...this.#served].map(([kernel, { flow, object }]) => ({
      cookieKey: kernel.cookieKey,
      cachedBytes: object.blocks.cachedBytes,
      sizeBytes: flow.stream.map.sizeBytes,
    }));
  }

  get waitingReads(): number {
    let count = 0;
    for (const { object } of this.#served.values()) {
      count += object.waiters.size + (object.queued?.length ?? 0);
    }
    return count;
  }

  /** Cancels every fetch; whoever waits for one is failed with `error`. */
  abort(error: DaemonError): void {
    for (const flow of this.#flows.values()) flow.abort(error);
  }

  // loading -> ready. What cannot be listed counts as not cached: fetched again, never trusted.
  async #load({ flow, object }: Served): Promise<void> {
    try {
      const extents = await object.kernel.dataExtents(flow.stream.map.sizeBytes);
      for (const extent of extents) object.blocks.add(extent);
      for (const flight of flow.flights) {
        if (object.blocks.covers(flight.extent)) flight.removeTarget(object);
      }
    } catch (error) {
      if (object.closed) return;
      this.#parts.log.warn(
        { key: object.kernel.cookieKey, err: error },
        "cannot see what the cache file holds: all of it is fetched again",
      );
    }
    const queued = object.queued ?? [];
    object.queued = undefined;
    if (object.closed) return;
    this.#parts.log.debug(
      { key: object.kernel.cookieKey, cachedBytes: object.blocks.cachedBytes },
      "object ready",
    );
    for (const { request, cancelDeadline } of queued) {
      cancelDeadline();
      if (!request.answered) serveRead(flow, object, request);
    }
  }

  #rawStream(blob: BlobLocation): Stream {
    const where = formatOrigin(blob.origin);
    return {
      digest: blob.digest,
      map: rawChunkMap(blob.size),
      where,
      fetch: (stored, onPiece, options) =>
        this.#parts.source.readRange(blob, stored, onPiece, options),
      verifyWhole: (bytes) => {
        const actual = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
        if (actual !== blob.digest) {
          throw new DaemonError({ code: "digest_mismatch", where, expected: blob.digest, actual });
        }
      },
    };
  }
}
