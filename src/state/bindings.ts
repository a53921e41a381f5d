// SPDX-License-Identifier: Apache-2.0
// Which content each cookie key names, durably, and written before the kernel is told.
//
// The kernel trusts a cached file by its key and the size given to copen, nothing else. So a
// key whose content we do not choose (a tag may move) gets a size no other content of that
// key ever had: the real size, rounded up, plus 4096 n. The kernel then drops the old file.
// (Cachefiles keeps the size in the xattr user.CacheFiles.cache: kernel-notes/cachefiles-coherency.md)

import * as z from "zod";
import { DaemonError } from "../errors.ts";
import { BLOCK_BYTES, type Digest, alignUp, isDigest } from "../units.ts";
import { JsonFile, parseDocument } from "./json-file.ts";

const VERSION = 1;
/** Sizes remembered for one key; a tag that moved more often forgets its oldest contents. */
const PAST_MAX = 1024;

const digest = z.custom<Digest>((value) => typeof value === "string" && isDigest(value));
const size = z.int().positive();

const streamRecord = z.strictObject({
  digest,
  size,
  origin: z.strictObject({
    kind: z.enum(["registry", "layout", "directory"]),
    host: z.string(),
    repository: z.string(),
    blobFile: z.string().optional(),
  }),
  /**
   * Absent: a raw layer, `size` stored bytes. `bootstrap`: a Nydus bootstrap in the stream store,
   * named by its content. `rafs`: a Nydus blob; `size` is that of the device it stands for.
   */
  format: z.enum(["bootstrap", "rafs"]).optional(),
  /** Of a Nydus blob: its bytes in the registry, where a descriptor says. */
  storedSize: size.optional(),
});

const binding = z.strictObject({
  /** The reference behind the key: the key itself, or what it was registered for. */
  reference: z.string(),
  manifestDigest: digest,
  stream: streamRecord,
  devices: z.array(streamRecord),
  /** What the superblock said when it was read; absent until then. */
  inspected: z
    .strictObject({
      compressed: z.boolean(),
      /** Of the device slots, in their order; absent when none has one. */
      tags: z.array(z.string()).optional(),
    })
    .optional(),
  /** How it is filled where that was said for this image; absent: as the configuration says. */
  fill: z.enum(["on-demand", "background"]).optional(),
  /** No longer to be opened anew; what is mounted is served on. */
  unbound: z.literal(true).optional(),
  /** Size given to copen; undefined until the first. */
  copenSize: size.optional(),
  /** Every content this key ever had with the size given for it, oldest first. */
  past: z.array(z.strictObject({ digest, copenSize: size })),
});

const document = z.strictObject({
  version: z.literal(VERSION),
  /** See startSizesAt. */
  sizesFrom: z.int().nonnegative().default(0),
  // Pairs, not records: a key may be anything, also `__proto__`.
  volumes: z.array(z.tuple([z.string(), z.array(z.tuple([z.string(), binding]))])),
});

export type StreamRecord = z.infer<typeof streamRecord>;
export type Binding = z.infer<typeof binding>;

export interface CookieName {
  readonly volumeKey: string;
  readonly cookieKey: string;
}

/** What a key is about to name. */
export type Content = Pick<Binding, "reference" | "manifestDigest" | "stream" | "devices"> & {
  readonly inspected?: Binding["inspected"];
};

/** True when what was learnt of `before` holds for `content`: the same bootstrap and devices. */
export function isSameImage(before: Content | undefined, content: Content): boolean {
  if (before?.stream.digest !== content.stream.digest) return false;
  const alone = before.devices.length === 0 && content.devices.length === 0;
  return alone || before.manifestDigest === content.manifestDigest;
}

export class Bindings {
  readonly #file: JsonFile;
  readonly #volumes = new Map<string, Map<string, Binding>>();
  readonly #streams = new Map<Digest, StreamRecord[]>();
  /** Changes made here, and how many of them are surely on disk: a save may fail. */
  #changes = 0;
  #changesSaved = 0;
  #sizesFrom = 0;
  /** Told of every bind that is on disk, with what the name was bound to before. */
  observer: ((name: CookieName, bound: Binding, before: Binding | undefined) => void) | undefined;

  constructor(path: string) {
    this.#file = new JsonFile(path, () => this.#document());
  }

  /**
   * Reads what the last daemon wrote. `missing` and `damaged` mean that nothing is known of the
   * files in the cache: the caller must drop those whose key is not a content digest.
   */
  async load(): Promise<"loaded" | "missing" | DaemonError> {
    const text = await this.#file.read();
    if (text === undefined) return "missing";
    try {
      const parsed = document.parse(parseDocument(text));
      this.#sizesFrom = parsed.sizesFrom;
      const all = parsed.volumes.flatMap(([volumeKey, keys]) =>
        keys.map(([cookieKey, known]) => ({ volumeKey, cookieKey, known })),
      );
      // What is bound says last, and so with more weight, where blobs come from.
      const last = all.filter(({ known }) => known.unbound !== true);
      for (const { known, ...name } of [...all, ...last]) this.#put(name, known);
      this.#changesSaved = this.#changes;
      return "loaded";
    } catch (error) {
      const aside = await this.#file.setAside();
      const reason = error instanceof Error ? error.message.slice(0, 200) : String(error);
      const detail = `not a state document (set aside as ${aside}): ${reason}`;
      return new DaemonError({ code: "state_damaged", path: this.#file.path, detail });
    }
  }

  /**
   * Keys get sizes from roundup(real) + 4096 n on: for a cache whose files could not be dropped
   * when their history was lost. With a random n (below 2^20) a new size meets none of theirs.
   */
  startSizesAt(n: number): void {
    this.#sizesFrom = n;
    this.#changes += 1;
  }

  /** Another number after every change. */
  get revision(): number {
    return this.#changes;
  }

  get(name: CookieName): Binding | undefined {
    return this.#volumes.get(name.volumeKey)?.get(name.cookieKey);
  }

  *all(): Iterable<CookieName & { readonly binding: Binding }> {
    for (const [volumeKey, keys] of this.#volumes) {
      for (const [cookieKey, known] of keys) yield { volumeKey, cookieKey, binding: known };
    }
  }

  /**
   * A stream of the known images by its content: one record for each size images claim for it.
   * A device slot's tag has room for 57 digits of a prefixed digest, so a prefix will do.
   */
  findStreams(wanted: string): readonly StreamRecord[] {
    const exact = isDigest(wanted) ? this.#streams.get(wanted) : undefined;
    if (exact !== undefined) return exact;
    const found = [...this.#streams].filter(([known]) => known.startsWith(wanted));
    return found.length === 1 ? (found[0]?.[1] ?? []) : [];
  }

  /** What a digest stands for in the known images, unless that is the same as in `record`. */
  otherUse(record: Pick<StreamRecord, "digest" | "format">): string | undefined {
    const other = this.#streams.get(record.digest)?.find(({ format }) => format !== record.format);
    if (other === undefined) return undefined;
    return other.format === undefined
      ? "a raw layer there"
      : `a Nydus ${other.format} stream there`;
  }

  /**
   * Says what `name` stands for, and resolves when that is on disk. Fault: image_invalid when an
   * image uses a digest in another way than a known one does: both would share a cache file.
   */
  async bind(name: CookieName, content: Content): Promise<Binding> {
    for (const record of [content.stream, ...content.devices]) {
      const other = this.otherUse(record);
      if (other === undefined) continue;
      const detail = `${record.digest} contradicts a known image: it is ${other}`;
      throw new DaemonError({ code: "image_invalid", where: content.reference, detail });
    }
    const before = this.get(name);
    const same = before?.stream.digest === content.stream.digest;
    const bound: Binding = {
      ...content,
      inspected:
        content.inspected ?? (isSameImage(before, content) ? before?.inspected : undefined),
      fill: before?.fill,
      copenSize: same ? before.copenSize : undefined,
      past: before?.past ?? [],
    };
    this.#put(name, bound);
    await this.#save();
    this.observer?.(name, bound, before);
    return bound;
  }

  /** Resolves with the binding when it is on disk. */
  async setFill(name: CookieName, fill: NonNullable<Binding["fill"]>): Promise<Binding> {
    const known = this.get(name);
    if (known === undefined) throw new Error(`"${name.cookieKey}" is not bound`);
    if (known.fill === fill) return known;
    const keys = this.#volumes.get(name.volumeKey);
    const changed = { ...known, fill };
    // Not as #put does: it is no newer for that.
    keys?.set(name.cookieKey, changed);
    this.#changes += 1;
    await this.#save();
    return changed;
  }

  /** `name` may not be opened anew until it is bound again. Its sizes are remembered. */
  async unbind(name: CookieName): Promise<void> {
    const keys = this.#volumes.get(name.volumeKey);
    const known = keys?.get(name.cookieKey);
    if (keys === undefined || known === undefined) return;
    // Not as #put does: where its blobs came from is not the newest that is known of them.
    keys.set(name.cookieKey, { ...known, unbound: true });
    this.#changes += 1;
    await this.#save();
  }

  /** Forgets `name` and the sizes it had: only when its cache file is gone too. */
  async forget(name: CookieName): Promise<void> {
    if (this.#volumes.get(name.volumeKey)?.delete(name.cookieKey) !== true) return;
    this.#changes += 1;
    await this.#save();
  }

  /** The size to give to copen, on disk before it is returned. Digest keys always get the real one. */
  async copenSize(name: CookieName): Promise<number> {
    const known = this.get(name);
    if (known === undefined) throw new Error(`"${name.cookieKey}" is not bound`);
    const given = isDigest(name.cookieKey) ? known.stream.size : known.copenSize;
    if (given !== undefined) {
      await this.#save();
      return given;
    }
    const { digest: content, size: realSize } = known.stream;
    const earlier = known.past.find((entry) => entry.digest === content);
    const copenSize = earlier?.copenSize ?? unusedSize(realSize, known.past, this.#sizesFrom);
    const others = known.past.filter((entry) => entry.digest !== content);
    const past = [...others, { digest: content, copenSize }].slice(-PAST_MAX);
    this.#put(name, { ...known, copenSize, past });
    await this.#save();
    return copenSize;
  }

  /** Resolves when every change made so far is on disk, also those whose own save failed. */
  async #save(): Promise<void> {
    const changes = this.#changes;
    if (changes === this.#changesSaved) return;
    await this.#file.save();
    this.#changesSaved = Math.max(this.#changesSaved, changes);
  }

  #put(name: CookieName, known: Binding): void {
    this.#changes += 1;
    let keys = this.#volumes.get(name.volumeKey);
    if (keys === undefined) {
      keys = new Map();
      this.#volumes.set(name.volumeKey, keys);
    }
    // Kept in the order of binding: the last one is the newest.
    keys.delete(name.cookieKey);
    keys.set(name.cookieKey, known);
    for (const stream of [known.stream, ...known.devices]) {
      const others = (this.#streams.get(stream.digest) ?? []).filter(
        (other) => other.size !== stream.size,
      );
      this.#streams.set(stream.digest, [stream, ...others]);
    }
  }

  #document(): z.infer<typeof document> {
    const volumes = [...this.#volumes].map(([volumeKey, keys]): [string, [string, Binding][]] => [
      volumeKey,
      [...keys],
    ]);
    return { version: VERSION, sizesFrom: this.#sizesFrom, volumes };
  }
}

/** The smallest size of the form roundup(real) + 4096 n, n not below `from`, that no other content of the key had. */
function unusedSize(realSize: number, past: Binding["past"], from: number): number {
  const used = new Set(past.map((entry) => entry.copenSize));
  let candidate = alignUp(realSize, BLOCK_BYTES) + from * BLOCK_BYTES;
  while (used.has(candidate)) candidate += BLOCK_BYTES;
  return candidate;
}
