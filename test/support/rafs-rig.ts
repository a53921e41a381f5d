// SPDX-License-Identifier: Apache-2.0
// Nydus images through the engine, with everything real but the kernel: bootstraps and blobs are
// the fixtures' files, the state is on disk, the decoder is the addon's.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createDecoder } from "../../src/decoder/unit-decoder.ts";
import { Engine } from "../../src/flow/engine.ts";
import { RafsAdmission } from "../../src/flow/rafs/admit-image.ts";
import { Streams } from "../../src/flow/streams.ts";
import { systemClock as clock } from "../../src/platform/clock.ts";
import type { Native } from "../../src/platform/native.ts";
import { SlabPool } from "../../src/platform/slab-pool.ts";
import { createDirectorySource } from "../../src/source/directory.ts";
import type { Source } from "../../src/source/source.ts";
import { createSources } from "../../src/source/sources.ts";
import type { Content, StreamRecord } from "../../src/state/bindings.ts";
import { StreamStore } from "../../src/state/stream-store.ts";
import { MIB } from "../../src/units.ts";
import { FakeObject, FakeRead } from "./fake-kernel.ts";
import { QuietLog } from "./quiet-log.ts";
import type { FixtureImage } from "./rafs-fixtures.ts";
import { parseFixture } from "./rafs-fixtures.ts";

const never = new AbortController().signal;

export class RafsRig {
  readonly log = new QuietLog();
  readonly engine: Engine;
  readonly streams: Streams;
  readonly slabs: SlabPool;
  readonly dropped: string[] = [];
  /** How long deleting what is cached takes. */
  dropMs = 0;
  /** What every digest stands for in other images, in words. */
  otherUse: string | undefined;
  readonly #admission: RafsAdmission;
  readonly #directory: string;
  readonly #blobs: string;
  #images = 0;

  /** What an earlier rig in the same directory stored is known. */
  constructor(native: Native, directory: string, readTimeoutMs = 10_000) {
    this.#directory = directory;
    this.#blobs = join(directory, "blobs");
    const store = new StreamStore(join(directory, "state"));
    this.slabs = new SlabPool({
      slabBytes: MIB,
      slabsMax: 16,
      allocate: (bytes) => native.allocateAligned(bytes),
    });
    const limits = {
      windowBytes: MIB,
      windowBytesMax: 8 * MIB,
      fillsNeighbours: false,
      opensSpares: false,
      requestsPerHost: 8,
      readTimeoutMs,
    };
    const { log, slabs } = this;
    this.engine = new Engine({ clock, log, slabs, limits, onFillFailure: () => undefined });
    const source = directorySource();
    const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
    const decoder = createDecoder({ native, nextTurn });
    const live = (key: string) => this.engine.liveStream(key);
    this.streams = new Streams({ source, store, decoder: () => decoder, live });
    this.#admission = new RafsAdmission({
      source,
      native,
      store,
      log,
      streams: this.streams,
      otherUse: () => this.otherUse,
      dropCached: (digest) => {
        this.dropped.push(digest);
        return sleep(this.dropMs);
      },
    });
  }

  /** Takes an image in; its blobs are put where the source finds them, changed by `damage`. */
  async admit(
    image: Pick<FixtureImage, "bootstrap" | "blob"> & Partial<Pick<FixtureImage, "blobMeta">>,
    damage: (blob: Uint8Array) => Uint8Array = (blob) => blob,
  ): Promise<Content> {
    const home = join(this.#directory, `image-${(this.#images += 1)}`);
    await mkdir(home, { recursive: true });
    await mkdir(this.#blobs, { recursive: true });
    const bootstrapPath = join(home, "image.boot");
    await writeFile(bootstrapPath, image.bootstrap);
    const metas = new Map<string, string>();
    for (const [id, bytes] of image.blobMeta ?? []) {
      metas.set(id, join(home, `${id}.blob.meta`));
      await writeFile(join(home, `${id}.blob.meta`), bytes);
    }
    for (const { id, metaDigest } of blobsOf(image.bootstrap)) {
      await writeFile(join(this.#blobs, id), damage(image.blob(id)));
      if (metaDigest !== undefined)
        await writeFile(join(this.#blobs, metaDigest), image.blob(metaDigest));
    }
    const origin = { kind: "directory", host: "directory", repository: this.#blobs } as const;
    return this.#admission.admit(
      {
        reference: `image ${this.#images}`,
        manifestDigest: undefined,
        bootstrapPath,
        blobMeta: (id) => Promise.resolve(metas.get(id)),
        locate: (digest) => ({ origin, digest, size: undefined }),
      },
      { signal: never, deadlineMs: clock.nowMs() + 10_000 },
    );
  }

  async open(record: StreamRecord): Promise<FakeObject> {
    const stream = await this.streams.open(record);
    const id = this.engine.openObjects.length + 1;
    const object = new FakeObject({ id, cookieKey: record.digest, sizeBytes: record.size });
    this.engine.serve(stream, object);
    return object;
  }

  /** Reads one extent; resolves when it is answered. */
  async read(object: FakeObject, offset: number, length: number): Promise<FakeRead> {
    const read = new FakeRead(object, { offset, length });
    this.engine.read(read);
    for (const endMs = clock.nowMs() + 10_000; !read.answered; ) {
      if (clock.nowMs() > endMs) throw new Error("never answered");
      await new Promise((resolve) => void setImmediate(resolve));
    }
    return read;
  }
}

function directorySource(): Source {
  const none = (): Promise<Source> => Promise.reject(new Error("only directories here"));
  const directory = () => Promise.resolve(createDirectorySource({ clock }));
  return createSources({ registry: none, layout: none, directory });
}

function blobsOf(bootstrap: Uint8Array) {
  return parseFixture(bootstrap).blobs;
}
