// SPDX-License-Identifier: Apache-2.0
// What every Source must do, whatever keeps its blobs. A suite calls runSourceContract with a way
// to make its source hold given blobs.

import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DaemonError } from "../../src/errors.ts";
import { systemClock } from "../../src/platform/clock.ts";
import type {
  BlobLocation,
  FetchOptions,
  Origin,
  SizedBlobLocation,
  Source,
} from "../../src/source/source.ts";
import type { Extent } from "../../src/units.ts";
import { faultFrom } from "../support/faults.ts";
import { type BuiltImage, OCI_MANIFEST, buildImage, digestOf } from "../support/oci-image.ts";

export interface SourceUnderTest {
  readonly source: Source;
  /** Holds the image, tagged `v1`. */
  readonly origin: Origin;
  /** Of the same kind, holding nothing. */
  readonly emptyOrigin: Origin;
  /** Releases what was made; the source is closed before. */
  dispose(): Promise<void>;
}

export type MakeSource = (image: BuiltImage) => Promise<SourceUnderTest>;

const LAYER_BYTES = 1_500_001;

/** Without `manifests` the source keeps only blobs. */
export function runSourceContract(
  name: string,
  make: MakeSource,
  { manifests = true }: { readonly manifests?: boolean } = {},
): void {
  const layer = { bytes: randomBytes(LAYER_BYTES), mediaType: "application/vnd.erofs" };
  const image = buildImage([layer]);
  let made: SourceUnderTest;
  let blob: SizedBlobLocation;

  beforeAll(async () => {
    made = await make(image);
    blob = { origin: made.origin, digest: digestOf(layer.bytes), size: layer.bytes.length };
  });

  afterAll(async () => {
    await made.source.close();
    await made.dispose();
  });

  const options = (fields: Partial<FetchOptions> = {}): FetchOptions => ({
    signal: new AbortController().signal,
    deadlineMs: systemClock.nowMs() + 20_000,
    ...fields,
  });

  const read = async (
    extent: Extent,
    from: BlobLocation = blob,
    fields?: Partial<FetchOptions>,
  ) => {
    const pieces: Uint8Array[] = [];
    const keep = (piece: Uint8Array): void => {
      pieces.push(Uint8Array.from(piece));
    };
    await made.source.readRange(from, extent, keep, options(fields));
    return Buffer.concat(pieces);
  };

  const expectBytes = async (extent: Extent): Promise<void> => {
    const { offset, length } = extent;
    const wanted = layer.bytes.subarray(offset, offset + length);
    expect(Buffer.compare(await read(extent), wanted)).toBe(0);
  };

  describe(`${name}: a range`, () => {
    it.each<[string, Extent]>([
      ["the first byte", { offset: 0, length: 1 }],
      ["the last byte", { offset: LAYER_BYTES - 1, length: 1 }],
      ["a block", { offset: 4096, length: 4096 }],
      ["across pieces", { offset: 262_143, length: 524_290 }],
      ["the whole blob", { offset: 0, length: LAYER_BYTES }],
      ["nothing", { offset: 17, length: 0 }],
      ["nothing at the end", { offset: LAYER_BYTES, length: 0 }],
    ])("%s arrives exactly", async (_, extent) => {
      await expectBytes(extent);
    });

    it("can be read by many at once", async () => {
      const extents = Array.from({ length: 24 }, (_, at) => ({
        offset: at * 50_000,
        length: 60_000,
      }));
      await Promise.all(extents.map(expectBytes));
    });

    it("of a blob that is not there says so", async () => {
      const digest = digestOf(Uint8Array.of(1));
      const fault = await faultFrom(read({ offset: 0, length: 1 }, { ...blob, digest }));
      expect(fault).toMatchObject({ code: "blob_not_found", digest });
    });

    it("of a repository that is not there says so", async () => {
      const from = { ...blob, origin: made.emptyOrigin };
      const fault = await faultFrom(read({ offset: 0, length: 1 }, from));
      expect(fault.code).toBe("blob_not_found");
    });

    it.each([-1, 1])("of a blob whose size is off by %d is refused", async (difference) => {
      const from = { ...blob, size: blob.size + difference };
      const fault = await faultFrom(read({ offset: 0, length: 100 }, from));
      expect(fault).toMatchObject({ code: "blob_truncated", digest: blob.digest });
    });

    it("behind the stored end is refused", async () => {
      const from = { ...blob, size: blob.size + 4096 };
      const fault = await faultFrom(read({ offset: blob.size, length: 100 }, from));
      expect(fault.code).toBe("blob_truncated");
    });

    it("of a blob of unknown size arrives exactly, and ends where the blob ends", async () => {
      const from = { ...blob, size: undefined };
      const extent = { offset: LAYER_BYTES - 5000, length: 5000 };
      expect(Buffer.compare(await read(extent, from), layer.bytes.subarray(-5000))).toBe(0);
      const whole = await read({ offset: 0, length: LAYER_BYTES }, from);
      expect(Buffer.compare(whole, layer.bytes)).toBe(0);
      for (const behind of [
        { ...extent, length: 5001 },
        { offset: LAYER_BYTES + 9, length: 1 },
      ]) {
        const fault = await faultFrom(read(behind, from));
        expect(["blob_truncated", "registry_protocol"]).toContain(fault.code);
      }
    });

    it("ends with the caller's reason when it is aborted, delivering nothing more", async () => {
      const abort = new AbortController();
      let deliveredBytes = 0;
      const count = (piece: Uint8Array): void => {
        expect(abort.signal.aborted).toBe(false);
        deliveredBytes += piece.length;
        abort.abort(new DaemonError({ code: "stopping" }));
      };
      const extent = { offset: 0, length: LAYER_BYTES };
      const work = made.source.readRange(blob, extent, count, options({ signal: abort.signal }));
      expect(await faultFrom(work)).toEqual({ code: "stopping" });
      expect(deliveredBytes).toBeLessThan(LAYER_BYTES);
    });

    it("is not begun after the deadline", async () => {
      const deadlineMs = systemClock.nowMs() - 1;
      const fault = await faultFrom(read({ offset: 0, length: 1 }, blob, { deadlineMs }));
      expect(fault.code).toBe("deadline_exceeded");
    });

    it("passes on what the receiver throws", async () => {
      const work = made.source.readRange(
        blob,
        { offset: 0, length: 10 },
        () => {
          throw new Error("the receiver's bug");
        },
        options(),
      );
      await expect(work).rejects.toThrow("the receiver's bug");
    });
  });

  describe(`${name}: a blob's size`, () => {
    const sizeOf = (of: BlobLocation): Promise<number> => made.source.blobSize(of, options());

    it("is what is stored, whether it was known or not", async () => {
      expect(await sizeOf(blob)).toBe(LAYER_BYTES);
      expect(await sizeOf({ ...blob, size: undefined })).toBe(LAYER_BYTES);
    });

    it("is not another one than the descriptor's", async () => {
      const fault = await faultFrom(sizeOf({ ...blob, size: LAYER_BYTES + 1 }));
      expect(fault).toMatchObject({ code: "blob_truncated", digest: blob.digest });
    });

    it("is not that of a blob that is not there", async () => {
      const digest = digestOf(Uint8Array.of(1));
      const fault = await faultFrom(sizeOf({ ...blob, digest, size: undefined }));
      expect(fault).toMatchObject({ code: "blob_not_found", digest });
    });
  });

  if (!manifests) {
    it(`${name}: a manifest is not here, where there are only blobs`, async () => {
      const work = made.source.fetchManifest(made.origin, "v1", options());
      expect((await faultFrom(work)).code).toBe("image_unsupported");
    });
    return;
  }

  describe(`${name}: a manifest`, () => {
    it("comes by tag and by digest, the same", async () => {
      const { digest } = image.descriptor;
      for (const wanted of ["v1", digest]) {
        const manifest = await made.source.fetchManifest(made.origin, wanted, options());
        expect(manifest.digest).toBe(digest);
        expect(manifest.mediaType).toBe(OCI_MANIFEST);
        expect(Buffer.compare(manifest.bytes, image.manifest.bytes)).toBe(0);
      }
    });

    it.each([
      ["tag", "v2"],
      ["digest", digestOf(Uint8Array.of(1))],
    ])("by a %s that is not there says so", async (_, wanted) => {
      const work = made.source.fetchManifest(made.origin, wanted, options());
      expect(await faultFrom(work)).toMatchObject({ code: "manifest_not_found", wanted });
    });
  });
}
