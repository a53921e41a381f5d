// SPDX-License-Identifier: Apache-2.0
// What a cookie key stands for where somebody else chooses the keys and says what they mean:
// nothing is resolved, only what was bound can be opened.

import type { Seed } from "../cache/seed-files.ts";
import { DaemonError } from "../errors.ts";
import type { Binding, Bindings, Content, CookieName } from "../state/bindings.ts";
import { isDigest } from "../units.ts";
import { NameLocks } from "./name-locks.ts";
import type { Found } from "./name-resolver.ts";
import type { Streams } from "./streams.ts";

export interface BoundNamesParts {
  readonly bindings: Bindings;
  readonly streams: Pick<Streams, "isComplete" | "open">;
  readonly isOpen: (name: CookieName) => boolean;
  /** True after a takeover: what is unbound may be mounted still, and opened again. */
  readonly mayBeMounted: () => boolean;
  /** Called before the kernel may open these objects. */
  readonly seed: (seeds: readonly Seed[]) => Promise<void>;
}

export class BoundNames {
  readonly #parts: BoundNamesParts;
  readonly #locks = new NameLocks();

  constructor(parts: BoundNamesParts) {
    this.#parts = parts;
  }

  /** Resolves when it is on disk. Faults: image_invalid, key_refused when the key is mounted as something else. */
  async bind(name: CookieName, content: Content): Promise<Binding> {
    const unlock = await this.#locks.lock(name);
    try {
      this.#checkNotMounted(name, content);
      const { bindings } = this.#parts;
      const bound = await bindings.bind(name, content);
      // A size the kernel may be told at any moment is on disk by then.
      const sizeBytes = await bindings.copenSize(name);
      await this.#seed([{ ...name, sizeBytes }, ...deviceSeeds(name, bound)]);
      return bound;
    } finally {
      unlock();
    }
  }

  // After a takeover nothing is open here before the kernel has opened it again, and then it must
  // find what it had: a mount must never go on with another image's bytes.
  #checkNotMounted(name: CookieName, content: Content): void {
    const { bindings, isOpen, mayBeMounted } = this.#parts;
    const before = bindings.get(name);
    if (before === undefined || before.stream.digest === content.stream.digest) return;
    if (!isOpen(name) && !mayBeMounted()) return;
    const is = isOpen(name) ? "is" : "may be";
    const detail = `it ${is} mounted, and is ${before.stream.digest}`;
    throw new DaemonError({ code: "key_refused", key: name.cookieKey, detail });
  }

  get(name: CookieName): Binding | undefined {
    return this.#parts.bindings.get(name);
  }

  /** Only when its cache file is gone. One that was opened or bound meanwhile is not forgotten. */
  async forget(name: CookieName): Promise<void> {
    const unlock = await this.#locks.lock(name);
    try {
      // An OPEN under way has made a file with a size that must not be given again.
      if (this.get(name)?.unbound !== true || this.#parts.isOpen(name)) return;
      await this.#parts.bindings.forget(name);
    } finally {
      unlock();
    }
  }

  /** What this cookie key is, or was until it was unbound, in every volume. */
  bindingsOf(cookieKey: string): (CookieName & { readonly binding: Binding })[] {
    return [...this.#parts.bindings.all()].filter((name) => name.cookieKey === cookieKey);
  }

  /** Names that may be opened. */
  *all(): Iterable<CookieName & { readonly binding: Binding }> {
    for (const known of this.#parts.bindings.all()) {
      if (known.binding.unbound !== true) yield known;
    }
  }

  /** `name` may not be opened anew; where it is open it is served on. */
  async unbind(name: CookieName): Promise<void> {
    await this.#parts.bindings.unbind(name);
  }

  async #seed(seeds: readonly Seed[]): Promise<void> {
    await this.#parts.seed(seeds.filter((seed) => !this.#parts.isOpen(seed)));
  }

  async find(name: CookieName): Promise<Found> {
    // Held until the object is served: what is told to the kernel and what is bound must agree.
    const release = await this.#locks.lock(name);
    try {
      return await this.#found(name, release);
    } catch (error) {
      release();
      throw error;
    }
  }

  async #found(name: CookieName, release: () => void): Promise<Found> {
    const { bindings, streams, isOpen, mayBeMounted } = this.#parts;
    const bound = bindings.get(name);
    if (bound !== undefined && (bound.unbound !== true || mayBeMounted() || isOpen(name))) {
      if (!(await streams.isComplete(bound))) throw unknown(name, "what it was bound to is gone");
      const stream = await streams.open(bound.stream);
      await this.#seed(deviceSeeds(name, bound));
      return { stream, copenSize: await bindings.copenSize(name), release };
    }
    const digest = `sha256:${name.cookieKey}`;
    const [record] = isDigest(digest) ? bindings.findStreams(digest) : [];
    if (record === undefined)
      throw unknown(name, "no image is bound to it, nor is it a blob of one");
    return { stream: await streams.open(record), copenSize: record.size, release };
  }
}

/** The blobs of a Nydus image, as its bootstrap names them. */
function deviceSeeds({ volumeKey }: CookieName, { devices }: Binding): Seed[] {
  return devices.map(({ digest, size }) => {
    return { volumeKey, cookieKey: digest.slice("sha256:".length), sizeBytes: size };
  });
}

function unknown({ cookieKey }: CookieName, detail: string): DaemonError {
  return new DaemonError({ code: "key_unknown", key: cookieKey, detail });
}
