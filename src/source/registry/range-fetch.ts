// SPDX-License-Identifier: Apache-2.0
// One ranged GET from one upstream over one way: the unit that is tried, resumed, handed from
// one upstream to the next, and raced. Owns the check that what comes is what was asked for.

import type { DaemonError } from "../../errors.ts";
import type { Extent } from "../../units.ts";
import type { BlobLocation } from "../source.ts";
import type { BodyFlow, BodySink, ResponseHead } from "./exchange.ts";
import { type HTTPClient, type Try, protocolFault } from "./http-get.ts";
import { checkRangeAnswer, rangeHeader, storedSizeOf, unsatisfiedRange } from "./range-request.ts";
import { upstreamUrl } from "./upstream.ts";

export interface RangeFetch {
  readonly blob: BlobLocation;
  /** At least one byte. */
  readonly wanted: Extent;
  /** Takes the bytes in order; each piece is valid only during the call. */
  readonly onPiece: (piece: Uint8Array) => void;
  /** Its body is about to come, and may be held back by this. */
  readonly onFlow?: (flow: BodyFlow) => void;
}

/**
 * Gives exactly `wanted` to `onPiece`: it resolves after the last byte, or rejects having given a
 * prefix of it and gives nothing more then. Whoever counts what came can go on from there with
 * any other try, at this upstream or another. `attempt.signal` ends it at once (and its
 * connection), which is how the loser of a race is told. Nothing is tried twice in here, but for
 * what a token or a redirect needs. Faults: registry_*, blob_not_found, blob_truncated, what the
 * signal stands for; what `onPiece` throws.
 */
export async function fetchRange(
  http: HTTPClient,
  attempt: Try,
  { blob, wanted, onPiece, onFlow }: RangeFetch,
): Promise<void> {
  const { what, upstream } = attempt;
  let gotBytes = 0;
  await http.get({
    ...attempt,
    ...blobRequest(attempt, blob, wanted),
    onStatus: (head) => (head.status === 416 ? unsatisfiedRange(head, blob) : undefined),
    onHead: (head, flow): BodySink => {
      checkRangeAnswer(head, blob, wanted);
      onFlow?.(flow);
      return (piece) => {
        const left = wanted.length - gotBytes;
        if (piece.length > left) {
          attempt.hints.final = left === 0;
          throw protocolFault(head.host, `more than ${wanted.length} bytes in ${what}`);
        }
        gotBytes += piece.length;
        onPiece(piece);
      };
    },
  });
  if (gotBytes < wanted.length) {
    throw protocolFault(upstream.name, `${gotBytes} of ${wanted.length} bytes in ${what}`);
  }
}

/** Asks for the first byte: some registries answer a HEAD with a redirect's length, or none. */
export async function fetchSize(
  http: HTTPClient,
  attempt: Try,
  blob: BlobLocation,
): Promise<number> {
  let size: number | undefined;
  try {
    await http.get({
      ...attempt,
      ...blobRequest(attempt, blob, { offset: 0, length: 1 }),
      onHead: (head: ResponseHead) => {
        size = storedSizeOf(head, blob);
        return undefined;
      },
      onStatus: (head: ResponseHead): DaemonError | undefined => {
        if (head.status === 416) size = storedSizeOf(head, blob);
        return undefined;
      },
    });
  } catch (error) {
    // The 416 of an empty blob is an answer.
    if (size === undefined) throw error;
  }
  if (size === undefined) throw new Error("an answer has a head");
  return size;
}

function blobRequest({ upstream, repository }: Try, { digest }: BlobLocation, wanted: Extent) {
  return {
    url: upstreamUrl(upstream, repository, `blobs/${digest}`),
    headers: { accept: "*/*", range: rangeHeader(wanted) },
    blob: digest,
    notFound: { code: "blob_not_found", host: upstream.name, repository, digest },
  } as const;
}
