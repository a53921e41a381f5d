// SPDX-License-Identifier: Apache-2.0
// An opener and its name resolver on a scripted registry: names resolve when the test says so,
// blobs come at once, and the state is a real file in a directory of the test's own.

import { dirname, join } from "node:path";
import { DaemonError, type Fault } from "../../src/errors.ts";
import { NameResolver, type NameResolverParts } from "../../src/flow/name-resolver.ts";
import type { Seed } from "../../src/cache/seed-files.ts";
import { Opener } from "../../src/flow/open-image.ts";
import { cancelledBy } from "../../src/platform/clock.ts";
import type {
  ReferenceResolver,
  ResolvedEROFS,
  ResolvedReference,
} from "../../src/source/reference-resolver.ts";
import type { SizedBlobLocation as BlobLocation, FetchOptions } from "../../src/source/source.ts";
import { Streams } from "../../src/flow/streams.ts";
import { Bindings } from "../../src/state/bindings.ts";
import { StreamStore } from "../../src/state/stream-store.ts";
import { type HeadOptions, erofsBlob } from "./erofs-head.ts";
import { FakeOpen } from "./fake-kernel.ts";
import { FlowRig, digestOf } from "./flow-rig.ts";
import { tempDir } from "./temp-dir.ts";

export const VOLUME = "erofs,erofsd";
export const TAG = "registry.example/app:v1";
export const OPEN_TIMEOUT_MS = 15_000;

type Outcome = ResolvedReference | Fault | "stall";

export class NamesRig {
  readonly flow = new FlowRig();
  readonly resolved: { reference: string; options: FetchOptions }[] = [];
  readonly failures: { key: string; error: DaemonError }[] = [];
  /** Cache files that were asked for before an OPEN. */
  readonly seeded: Seed[] = [];
  readonly bindings: Bindings;
  readonly names: NameResolver;
  readonly streams: Streams;
  readonly opener: Opener;
  readonly path: string;
  /** What each reference resolves to; "stall": when `release` is called. */
  readonly registry = new Map<string, Outcome>();
  readonly #stalled: (() => void)[] = [];

  private constructor(path: string, bindings: Bindings, options: RigOptions) {
    this.path = path;
    this.bindings = bindings;
    const { clock, log, engine } = this.flow;
    const common = {
      clock,
      log,
      engine,
      openTimeoutMs: OPEN_TIMEOUT_MS,
      mayBeMounted: () => Promise.resolve(false),
    };
    this.streams = new Streams({
      source: this.flow.source,
      store: new StreamStore(dirname(path)),
      decoder: () => Promise.reject(new Error("nothing here is compressed")),
      live: (key) => engine.liveStream(key),
    });
    this.names = new NameResolver({
      seed: async (seeds) => void this.seeded.push(...seeds),
      ...common,
      bindings,
      streams: this.streams,
      references: this.#references(),
      admit: () => Promise.reject(new Error("no Nydus image is published here")),
      integrity: options.integrity ?? "prefer",
      volumeKey: VOLUME,
      servesCompressed: options.servesCompressed ?? true,
      heldHeadsMax: 8,
    });
    this.opener = new Opener({
      ...common,
      names: this.names,
      volumeProblem: (key) => (key === VOLUME ? undefined : "not of this daemon"),
      onFailure: (key, error) => {
        this.failures.push({ key, error });
      },
    });
  }

  /** On new state, or, with `path`, on what another rig left. */
  static async make(options: RigOptions = {}): Promise<NamesRig> {
    const path = options.path ?? join(await tempDir(), "bindings.json");
    const bindings = new Bindings(path);
    await bindings.load();
    return new NamesRig(path, bindings, options);
  }

  /** An image in the registry, with devices of one block each. */
  image(options: HeadOptions & { devices?: readonly Uint8Array[] } = {}): ResolvedEROFS {
    const devices = (options.devices ?? []).map((bytes) => this.flow.blob(bytes));
    const stream = this.flow.blob(erofsBlob(options));
    const manifest = JSON.stringify([stream.digest, devices.map(({ digest }) => digest)]);
    return {
      kind: "erofs",
      reference: TAG,
      manifestDigest: digestOf(Buffer.from(manifest)),
      stream,
      devices,
    };
  }

  publish(reference: string, outcome: Outcome): void {
    this.registry.set(reference, outcome);
  }

  /** Lets stalled resolutions go on with what is published by now. */
  release(): void {
    for (const go of this.#stalled.splice(0)) go();
  }

  /** The kernel opens a key. */
  open(cookieKey: string, volumeKey = VOLUME): FakeOpen {
    const open = new FakeOpen({ volumeKey, cookieKey }, (sizeBytes) =>
      this.flow.objectOf({ cookieKey, volumeKey, sizeBytes }),
    );
    this.opener.open(open);
    return open;
  }

  /** Opens a key and lets everything happen that can; blobs arrive. */
  async opened(cookieKey: string, volumeKey = VOLUME): Promise<FakeOpen> {
    const open = this.open(cookieKey, volumeKey);
    await this.until(() => open.answered);
    return open;
  }

  /** Lets files be written and blobs arrive until `done`. */
  async until(done: () => boolean): Promise<void> {
    // The state file is a real one: only this guard looks at the machine's clock.
    const giveUpMs = performance.now() + 10_000;
    while (!done() && performance.now() < giveUpMs) {
      for (const fetch of this.flow.source.open) fetch.finish();
      await new Promise<void>((resolve) => {
        setImmediate(resolve);
      });
    }
    if (!done()) throw new Error("it does not happen");
  }

  async settled<T>(work: Promise<T>): Promise<T> {
    let isSettled = false;
    const settle = (): void => {
      isSettled = true;
    };
    work.then(settle, settle);
    await this.until(() => isSettled);
    return work;
  }

  #references(): ReferenceResolver {
    return {
      canonical: (reference) => reference,
      isImmutable: (reference) => reference.includes("@sha256:"),
      resolve: async (reference, options) => {
        this.resolved.push({ reference, options });
        let outcome = this.registry.get(reference);
        if (outcome === "stall") {
          await this.#stall(options.signal);
          outcome = this.registry.get(reference);
        }
        if (outcome === undefined || outcome === "stall") throw notFound();
        if ("code" in outcome) throw new DaemonError(outcome);
        return { ...outcome, reference };
      },
    };
  }

  #stall(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#stalled.push(resolve);
      signal.addEventListener("abort", () => {
        reject(cancelledBy(signal));
      });
    });
  }
}

export interface RigOptions {
  readonly path?: string;
  readonly integrity?: NameResolverParts["integrity"];
  readonly servesCompressed?: boolean;
}

export const AWAY: Fault = {
  code: "registry_unreachable",
  host: "registry.example",
  detail: "down",
};

export function notFound(): DaemonError {
  const [host, repository, wanted] = ["registry.example", "app", "v1"];
  return new DaemonError({ code: "manifest_not_found", host, repository, wanted });
}

/** The same blob, claimed to have another size. */
export function resized(blob: BlobLocation, size: number): BlobLocation {
  return { ...blob, size };
}
