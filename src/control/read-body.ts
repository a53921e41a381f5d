// SPDX-License-Identifier: Apache-2.0
// The body of a control request, of bounded size.

import type { IncomingMessage } from "node:http";
import { DaemonError } from "../errors.ts";

/** A longer body is read up to here and thrown away, so that whoever sends it reads the answer. */
const DRAIN_BYTES_MAX = 8 * 1024 * 1024;

/**
 * The body as text, undefined when it is empty. Faults: request_too_large beyond `bytesMax`,
 * request_invalid when it is not UTF-8, cancelled when the client goes away in the middle.
 */
export async function readBody(
  request: IncomingMessage,
  bytesMax: number,
): Promise<string | undefined> {
  const { "content-length": length, "transfer-encoding": coding } = request.headers;
  if (length === undefined && coding === undefined) return undefined;
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const piece of request.iterator({ destroyOnReturn: false })) {
      if (!(piece instanceof Uint8Array)) throw new Error("a body comes in bytes");
      bytes += piece.length;
      if (bytes <= bytesMax) pieces.push(piece);
      if (bytes > DRAIN_BYTES_MAX) break;
    }
  } catch (error) {
    throw new DaemonError({ code: "cancelled", what: "the request's body" }, { cause: error });
  }
  if (bytes > bytesMax)
    throw new DaemonError({ code: "request_too_large", field: "body", bytesMax });
  if (bytes === 0) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(pieces));
  } catch {
    throw new DaemonError({ code: "request_invalid", field: "body", detail: "it is not UTF-8" });
  }
}
