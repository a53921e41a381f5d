// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from "node:crypto";
import { chmod, mkdir, readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { gzipSync } from "node:zlib";
import { type Header, pack } from "tar-stream";
import { describe, expect, it } from "vitest";
import { DaemonError, type Fault } from "../../../src/errors.ts";
import { type BootstrapFiles, fetchBootstrapLayer } from "../../../src/source/bootstrap-layer.ts";
import type { FetchOptions, Source } from "../../../src/source/source.ts";
import { type Extent, MIB } from "../../../src/units.ts";
import { faultFrom } from "../../support/faults.ts";
import { digestOf } from "../../support/oci-image.ts";
import { tempDir } from "../../support/temp-dir.ts";

const META = `${"ab".repeat(32)}.blob.meta`;
const BOOT = randomBytes(40_960);
const origin = { kind: "layout", host: "oci", repository: "/image" } as const;

type Members = readonly (readonly [string, Uint8Array, Partial<Header>?])[];

async function tarOf(members: Members): Promise<Buffer> {
  const tar = pack();
  for (const [name, bytes, header] of members) tar.entry({ name, ...header }, Buffer.from(bytes));
  tar.finalize();
  return await buffer(tar);
}

const right: Members = [
  ["image", new Uint8Array(), { type: "directory" }],
  ["image/image.boot", BOOT],
  [`image/${META}`, BOOT.subarray(0, 8192)],
];

/** Serves `stored` in pieces that are gone after the call, and keeps what was asked for. */
class OneBlob implements Source {
  readonly asked: Extent[] = [];
  readonly #stored: Uint8Array;
  readonly #failsAt: number;

  constructor(stored: Uint8Array, failsAt = Number.POSITIVE_INFINITY) {
    this.#stored = stored;
    this.#failsAt = failsAt;
  }

  async readRange(
    _blob: unknown,
    extent: Extent,
    onPiece: (piece: Uint8Array) => void,
    { signal }: FetchOptions,
  ): Promise<void> {
    this.asked.push(extent);
    for (let offset = 0; offset < extent.length; offset += 10_000) {
      const from = extent.offset + offset;
      if (from >= this.#failsAt) throw new DaemonError({ code: "stopping" });
      signal.throwIfAborted();
      const length = Math.min(10_000, extent.length - offset);
      const piece = this.#stored.slice(from, from + length);
      onPiece(piece);
      piece.fill(0xee);
      await new Promise(setImmediate);
    }
  }

  fetchManifest(): Promise<never> {
    return Promise.reject(new Error("no manifests here"));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  blobSize(): Promise<number> {
    return Promise.resolve(this.#stored.length);
  }
}

interface Asked {
  readonly directory: string;
  readonly source?: OneBlob;
  readonly digest?: ReturnType<typeof digestOf>;
  readonly size?: number | undefined;
  readonly bytesMax?: number;
}

function fetchLayer(stored: Uint8Array, asked: Asked): Promise<BootstrapFiles> {
  const { directory, source = new OneBlob(stored), bytesMax = MIB } = asked;
  const size = "size" in asked ? asked.size : stored.length;
  const layer = { origin, digest: asked.digest ?? digestOf(stored), size };
  const limits = { signal: new AbortController().signal, deadlineMs: 1e9, bytesMax };
  return fetchBootstrapLayer(source, layer, directory, limits);
}

/** The fault; the directory must be empty after it. */
async function faultOf(stored: Uint8Array, asked: Partial<Asked> = {}): Promise<Fault> {
  const directory = asked.directory ?? (await tempDir());
  const fault = await faultFrom(fetchLayer(stored, { ...asked, directory }));
  expect(await readdir(directory)).toEqual([]);
  return fault;
}

const detailOf = (fault: Fault): string => ("detail" in fault ? fault.detail : "");

describe("a bootstrap layer", () => {
  it.each([
    ["gzipped", (tar: Buffer) => gzipSync(tar)],
    ["plain", (tar: Buffer) => tar],
    [
      "gzipped in two members",
      (tar: Buffer) => Buffer.concat([gzipSync(tar.subarray(0, 999)), gzipSync(tar.subarray(999))]),
    ],
  ])("%s is unpacked", async (_, packed) => {
    const directory = await tempDir();
    const files = await fetchLayer(packed(await tarOf(right)), { directory });
    expect(files.bootstrapPath).toBe(join(directory, "image.boot"));
    expect(files.bootstrapBytes).toBe(BOOT.length);
    expect(Buffer.compare(await readFile(files.bootstrapPath), BOOT)).toBe(0);
    expect([...files.blobMetas]).toEqual([
      ["ab".repeat(32), { path: join(directory, META), bytes: 8192 }],
    ]);
    expect((await readdir(directory)).sort()).toEqual([META, "image.boot"].sort());
  });

  it("of unknown size is unpacked, and a large one fetched in several ranges", async () => {
    const directory = await tempDir();
    const large = randomBytes(17 * MIB);
    const stored = await tarOf([["image/image.boot", large]]);
    const source = new OneBlob(stored);
    const asked = { directory, source, size: undefined, bytesMax: 20 * MIB };
    const files = await fetchLayer(stored, asked);
    expect(files.bootstrapBytes).toBe(large.length);
    expect(source.asked.map(({ offset }) => offset / MIB)).toEqual([0, 8, 16]);
  });

  it("gives only the files that are asked for, wherever the others would go", async () => {
    const directory = await tempDir();
    const stored = await tarOf([
      ["image/backend.json", Uint8Array.of(1)],
      ["../image.boot", Uint8Array.of(1)],
      ["/image.boot", Uint8Array.of(1)],
      ["image/deeper/image.boot", Uint8Array.of(1)],
      ["image/../../x.blob.meta", Uint8Array.of(1)],
      [`image/${META}`, new Uint8Array(), { type: "symlink", linkname: "/etc/passwd" }],
      ...right.slice(1, 2),
    ]);
    const files = await fetchLayer(gzipSync(stored), { directory });
    expect(files.bootstrapBytes).toBe(BOOT.length);
    expect(await readdir(directory)).toEqual(["image.boot"]);
  });
});

describe("a bootstrap layer that is wrong", () => {
  it.each([5, 30, 20_000, 41_000])("in its byte %d has another digest", async (place) => {
    const stored = gzipSync(await tarOf(right));
    const damaged = Buffer.from(stored);
    damaged[place] = (damaged[place] ?? 0) ^ 0x40;
    const fault = await faultOf(damaged, { digest: digestOf(stored) });
    expect(fault).toMatchObject({ code: "digest_mismatch", expected: digestOf(stored) });
  });

  it.each<[string, () => Promise<Uint8Array>, Fault["code"], RegExp]>([
    [
      "lacks the bootstrap",
      async () => gzipSync(await tarOf(right.slice(2))),
      "image_invalid",
      /no image\/image\.boot/,
    ],
    [
      "has it twice",
      async () => gzipSync(await tarOf([...right, ...right.slice(1, 2)])),
      "image_invalid",
      /two members/,
    ],
    [
      "ends in its gzip data",
      async () => gzipSync(await tarOf(right)).subarray(0, -2_000),
      "image_invalid",
      /unpacked/,
    ],
    [
      "has damaged gzip data",
      async () => Buffer.from(gzipSync(await tarOf(right))).fill(0xff, 20_000, 20_100),
      "image_invalid",
      /unpacked/,
    ],
    [
      "has more behind its gzip data",
      async () => Buffer.concat([gzipSync(await tarOf(right)), randomBytes(300_000).fill(7, 0, 9)]),
      "image_invalid",
      /unpacked/,
    ],
    [
      "has zeros behind its gzip data",
      async () => Buffer.concat([gzipSync(await tarOf(right)), new Uint8Array(300_000)]),
      "image_invalid",
      /behind the end/,
    ],
    [
      "ends in its tar",
      async () => gzipSync((await tarOf(right)).subarray(0, 30_000)),
      "image_invalid",
      /unpacked/,
    ],
    [
      "has a damaged tar header",
      async () => gzipSync((await tarOf(right)).fill(0xff, 600, 640)),
      "image_invalid",
      /unpacked/,
    ],
    [
      "is zstd",
      async () => Buffer.from("28b52ffd00000000", "hex"),
      "image_unsupported",
      /28b52ffd/,
    ],
    ["is one byte", async () => Uint8Array.of(0x1f), "image_unsupported", /1f/],
    [
      "has members without end",
      async () => {
        const names = Array.from({ length: 1100 }, (_, at) => `x${at}`);
        return gzipSync(await tarOf(names.map((name) => [name, BOOT.subarray(0, 1)] as const)));
      },
      "image_invalid",
      /members/,
    ],
  ])("because it %s is refused", async (_, make, code, reason) => {
    const fault = await faultOf(await make(), { bytesMax: 8 * MIB });
    expect(fault.code).toBe(code);
    expect(detailOf(fault)).toMatch(reason);
  });

  it("because it is a bomb is refused before it is unpacked", async () => {
    const bomb = gzipSync(await tarOf([["image/image.boot", new Uint8Array(64 * MIB)]]));
    expect(bomb.length).toBeLessThan(100_000);
    const fault = await faultOf(bomb, { bytesMax: 2 * MIB });
    expect(fault.code).toBe("image_invalid");
    expect(detailOf(fault)).toMatch(/more than 2097152 bytes/);
  });

  it("because what is ignored in it is a bomb is refused too", async () => {
    const members: Members = [...right, ["image/other", new Uint8Array(64 * MIB)]];
    const fault = await faultOf(gzipSync(await tarOf(members)), { bytesMax: 2 * MIB });
    expect(detailOf(fault)).toMatch(/more than 2097152 bytes/);
  });

  it("because it is too large as it is stored is not fetched", async () => {
    const stored = await tarOf(right);
    const source = new OneBlob(stored);
    expect((await faultOf(stored, { source, bytesMax: 1024 })).code).toBe("image_invalid");
    expect(source.asked).toEqual([]);
  });
});

describe("fetching a bootstrap layer", () => {
  it.each([0, 10_000, 40_000])("fails as its source does at byte %d", async (failsAt) => {
    const stored = gzipSync(await tarOf(right));
    expect(await faultOf(stored, { source: new OneBlob(stored, failsAt) })).toEqual({
      code: "stopping",
    });
  });

  it("into a directory that is gone says which call failed", async () => {
    const directory = join(await tempDir(), "gone");
    const fault = await faultFrom(fetchLayer(gzipSync(await tarOf(right)), { directory }));
    expect(fault).toMatchObject({ code: "syscall_failed", syscall: "open", errnoName: "ENOENT" });
  });

  it("empties the directory of what it had", async () => {
    const directory = await tempDir();
    await mkdir(join(directory, "before"));
    await chmod(directory, 0o700);
    await faultOf(Uint8Array.of(1), { directory });
  });
});
