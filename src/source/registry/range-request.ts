// SPDX-License-Identifier: Apache-2.0
// Byte ranges in HTTP (RFC 9110, section 14): the Range header of a request and the check of
// its answer. The only place where an end is inclusive. An answer is believed only when it says
// exactly what was asked; everything else would put a stranger's bytes into a file.

import { DaemonError } from "../../errors.ts";
import { type BlobLocation, sizeContradiction } from "../source.ts";
import { type Extent, extentEnd } from "../../units.ts";
import type { ResponseHead } from "./exchange.ts";

export interface ContentRange {
  readonly extent: Extent;
  /** Size of the whole representation; undefined when the server wrote `*`. */
  readonly totalSize: number | undefined;
}

const CONTENT_RANGE = /^bytes ([0-9]{1,16})-([0-9]{1,16})\/([0-9]{1,16}|\*)$/i;
const UNSATISFIED_RANGE = /^bytes \*\/([0-9]{1,16})$/i;
const DIGITS = /^[0-9]{1,16}$/;

/** `bytes=first-last`, both inclusive. `extent.length` is at least 1. */
export function rangeHeader(extent: Extent): string {
  return `bytes=${extent.offset}-${extentEnd(extent) - 1}`;
}

/** Undefined for anything that is not one well-formed, satisfied range. */
export function parseContentRange(text: string): ContentRange | undefined {
  const match = CONTENT_RANGE.exec(text);
  if (match === null) return undefined;
  const [first, last] = [Number(match[1]), Number(match[2])];
  const totalSize = match[3] === "*" ? undefined : Number(match[3]);
  if (!Number.isSafeInteger(first) || !Number.isSafeInteger(last) || last < first) return undefined;
  if (totalSize !== undefined && (!Number.isSafeInteger(totalSize) || last >= totalSize)) {
    return undefined;
  }
  return { extent: { offset: first, length: last - first + 1 }, totalSize };
}

/** Content-Length as a number; undefined when absent or malformed. */
export function contentLength(head: ResponseHead): number | undefined {
  const text = head.headers.get("content-length");
  return text !== undefined && DIGITS.test(text) ? Number(text) : undefined;
}

/**
 * Returns when the body about to come is exactly `extent` of `blob` (or the whole blob, when
 * that is what `extent` is). Faults: registry_protocol, blob_truncated.
 */
export function checkRangeAnswer(head: ResponseHead, blob: BlobLocation, extent: Extent): void {
  const protocol = (detail: string): DaemonError =>
    new DaemonError({ code: "registry_protocol", host: head.host, detail });
  const length = contentLength(head);
  if (head.status === 200) {
    const isWhole = extent.offset === 0 && extent.length === (blob.size ?? length);
    if (isWhole && length === extent.length) return;
    throw protocol(`200 instead of 206 to a request for ${rangeHeader(extent)}`);
  }
  const text = head.headers.get("content-range") ?? "";
  const range = parseContentRange(text);
  if (range === undefined) throw protocol(`206 with Content-Range "${text.slice(0, 64)}"`);
  if (blob.size !== undefined && (range.totalSize ?? blob.size) !== blob.size) {
    throw truncated(head, blob, range.totalSize);
  }
  if (range.extent.offset !== extent.offset || range.extent.length !== extent.length) {
    throw protocol(`asked for ${rangeHeader(extent)}, got Content-Range ${text}`);
  }
  if (length !== undefined && length !== extent.length) {
    throw protocol(`asked for ${extent.length} bytes, got Content-Length ${length}`);
  }
}

/**
 * The blob's stored size from the answer to a request for its first byte: a 206's total, a 200's
 * length, or what a 416 says (an empty blob has no first byte). Faults: as checkRangeAnswer.
 */
export function storedSizeOf(head: ResponseHead, blob: BlobLocation): number {
  const size = sizeSaid(head, blob);
  if (size === undefined) {
    const detail = `${head.status} to a request for one byte does not say the blob's size`;
    throw new DaemonError({ code: "registry_protocol", host: head.host, detail });
  }
  if (blob.size !== undefined && size !== blob.size) throw truncated(head, blob, size);
  return size;
}

function sizeSaid(head: ResponseHead, blob: BlobLocation): number | undefined {
  if (head.status === 416) {
    return UNSATISFIED_RANGE.exec(head.headers.get("content-range") ?? "")?.[1] === "0"
      ? 0
      : undefined;
  }
  // Peer-to-peer proxies report failures as 200 without a byte: that is no size.
  if (head.status === 200) return contentLength(head) || undefined;
  checkRangeAnswer(head, blob, { offset: 0, length: 1 });
  return parseContentRange(head.headers.get("content-range") ?? "")?.totalSize;
}

/** The fault a 416 stands for: our extent lies within the blob, so the stored one is shorter. */
export function unsatisfiedRange(head: ResponseHead, blob: BlobLocation): DaemonError {
  const total = UNSATISFIED_RANGE.exec(head.headers.get("content-range") ?? "")?.[1];
  return truncated(head, blob, total === undefined ? undefined : Number(total));
}

function truncated(
  head: ResponseHead,
  blob: BlobLocation,
  storedSize: number | undefined,
): DaemonError {
  return new DaemonError({
    code: "blob_truncated",
    where: head.host,
    digest: blob.digest,
    detail: sizeContradiction(blob, storedSize),
  });
}
