// SPDX-License-Identifier: Apache-2.0
// Prefetches that survive the daemon: one document each, written before anybody is told of it.
// What cannot be read is left alone and told of; the others are taken.
//
//   <dir>/<id>.json

import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { DaemonError } from "../errors.ts";
import { isDigest, type Digest } from "../units.ts";
import { JsonFile, parseDocument } from "./json-file.ts";

const VERSION = 1;
const SUFFIX = ".json";

const digest = z.custom<Digest>((value) => typeof value === "string" && isDigest(value));
const bytes = z.int().nonnegative();

const what = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("all") }),
  z.strictObject({
    kind: z.literal("files"),
    paths: z.array(z.string()),
    globs: z.array(z.string()),
  }),
  /** Device number, offset and length of each part, in the order in which they are wanted. */
  z.strictObject({ kind: z.literal("trace"), extents: z.array(z.tuple([bytes, bytes, bytes])) }),
]);

const record = z.strictObject({
  version: z.literal(VERSION),
  id: z.string().regex(/^[0-9a-f]{8}$/),
  reference: z.string(),
  volumeKey: z.string(),
  cookieKey: z.string(),
  manifestDigest: digest,
  what,
  /** The higher goes first. */
  priority: z.int(),
  /** Bytes a second, 0: no limit. */
  bandwidthLimit: bytes,
  flightsMax: z.int().positive(),
  createdAtMs: z.number(),
  state: z.enum(["active", "done", "failed", "cancelled"]),
  endedAtMs: z.number().optional(),
  failure: z
    .strictObject({ code: z.string(), message: z.string(), hint: z.string().optional() })
    .optional(),
  totalBytes: bytes,
  cachedBytes: bytes,
  fetchedBytes: bytes,
});

export type PrefetchRecord = Omit<z.infer<typeof record>, "version">;
export type PrefetchWhat = PrefetchRecord["what"];

export class PrefetchStore {
  readonly #directory: string;
  readonly #files = new Map<string, { file: JsonFile; known: PrefetchRecord }>();

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** All of them, the oldest first; `onDamage` is told of each that is left out. */
  async load(onDamage: (fault: DaemonError) => void): Promise<PrefetchRecord[]> {
    const names = await readdir(this.#directory).catch(() => []);
    const found: PrefetchRecord[] = [];
    for (const name of names) {
      if (!name.endsWith(SUFFIX)) continue;
      const path = join(this.#directory, name);
      try {
        const text = (await new JsonFile(path, () => ({})).read()) ?? "";
        const { version: _, ...known } = record.parse(parseDocument(text));
        if (`${known.id}${SUFFIX}` !== name) throw new Error(`it is that of ${known.id}`);
        found.push(known);
      } catch (error) {
        const reason = error instanceof Error ? error.message.slice(0, 200) : String(error);
        const detail = `not a prefetch that can be gone on with: ${reason}`;
        onDamage(new DaemonError({ code: "state_damaged", path, detail }));
      }
    }
    return found.toSorted((a, b) => a.createdAtMs - b.createdAtMs);
  }

  /** Resolves when it is on disk. */
  async save(known: PrefetchRecord): Promise<void> {
    const of = this.#files.get(known.id) ?? { file: this.#fileOf(known.id), known };
    of.known = known;
    this.#files.set(known.id, of);
    await of.file.save();
  }

  async remove(id: string): Promise<void> {
    this.#files.delete(id);
    await rm(join(this.#directory, `${id}${SUFFIX}`), { force: true });
  }

  #fileOf(id: string): JsonFile {
    return new JsonFile(join(this.#directory, `${id}${SUFFIX}`), () => ({
      version: VERSION,
      ...this.#files.get(id)?.known,
    }));
  }
}
