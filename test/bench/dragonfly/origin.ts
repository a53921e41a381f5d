// SPDX-License-Identifier: Apache-2.0
// The registry that everything comes from: blobs of random bytes behind one emulated link, which
// counts what it is asked for.

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { request } from "undici";
import { EROFS } from "../../../src/image/oci/media-types.ts";
import type { SizedBlobLocation } from "../../../src/source/source.ts";
import { MIB } from "../../../src/units.ts";
import { buildImage, digestOf, writeLayout } from "../../support/oci-image.ts";
import { Program, benchPort } from "./program.ts";

const ROUND_TRIP = "20ms";
const BYTES_PER_SECOND = 50_000_000;

export interface OriginBlob {
  readonly bytes: Uint8Array;
  readonly location: SizedBlobLocation;
}

export interface BenchOrigin {
  readonly program: Program;
  readonly blobs: readonly OriginBlob[];
  /** Blob bytes sent since the start. */
  sentBytes(): Promise<number>;
}

export async function startOrigin(
  programs: string,
  home: string,
  { count, mib }: { count: number; mib: number },
): Promise<BenchOrigin> {
  const layers = Array.from({ length: count }, () => ({
    bytes: randomBytes(mib * MIB),
    mediaType: EROFS,
  }));
  const image = buildImage(layers);
  const annotations = { "org.opencontainers.image.ref.name": "v1" };
  const layout = join(home, "layout");
  await writeLayout(layout, {
    blobs: [image.manifest, image.config, ...layers],
    manifests: [{ ...image.descriptor, annotations }],
  });
  const port = await benchPort();
  const host = `127.0.0.1:${port}`;
  const link = ["-rtt", ROUND_TRIP, "-bw", String(BYTES_PER_SECOND)];
  const program = new Program(
    join(programs, "slowreg"),
    ["-addr", host, "-layout", layout, ...link],
    { log: join(home, "origin.out"), port },
  );
  await program.start();
  const origin = { kind: "registry", host, repository: "bench/app" } as const;
  return {
    program,
    blobs: layers.map(({ bytes }) => ({
      bytes,
      location: { origin, digest: digestOf(bytes), size: bytes.length },
    })),
    async sentBytes() {
      const { body } = await request(`http://${host}/stats`);
      const stats: unknown = await body.json();
      if (typeof stats === "object" && stats !== null && "bytes" in stats) {
        return Number(stats.bytes);
      }
      throw new Error("the origin does not say what it sent");
    },
  };
}
