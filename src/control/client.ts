// SPDX-License-Identifier: Apache-2.0
// The command line's side of the control socket, which a text of daemon-place.ts names. With Node's
// own client: loading another would take longer than most of what is asked.

import { type IncomingMessage, request } from "node:http";
import { json } from "node:stream/consumers";
import * as z from "zod";
import { DaemonError } from "../errors.ts";
import { failure, type Failure } from "./schema.ts";
import { parsePlace, placeName } from "./daemon-place.ts";
import { strangerAt } from "./socket-place.ts";
import { readToken } from "./token.ts";

/** Resolving an image may take as long as the daemon allows itself; this only ends a hang. */
const ANSWER_TIMEOUT_MS = 120_000;

/** An error that the daemon reported, with its own words. */
export class RemoteError extends Error {
  readonly failure: Failure;

  constructor(failure: Failure) {
    super(failure.message);
    this.name = "RemoteError";
    this.failure = failure;
  }
}

/** One request to the daemon. Rejects with a RemoteError, or with daemon_unreachable. */
export async function ask<T>(
  socketPath: string,
  asked: {
    readonly method: "GET" | "POST" | "PATCH" | "DELETE";
    readonly path: string;
    readonly body?: object;
    readonly answer: z.ZodType<T>;
    /** 0: as long as it takes. */
    readonly timeoutMs?: number;
  },
): Promise<T> {
  const to = await wayTo(socketPath);
  try {
    const body = asked.body === undefined ? undefined : JSON.stringify(asked.body);
    const response = await send(to, { timeoutMs: ANSWER_TIMEOUT_MS, ...asked, body });
    const value: unknown = await json(response);
    if (response.statusCode === 200) return asked.answer.parse(value);
    throw new RemoteError(failure.parse(value));
  } catch (error) {
    if (error instanceof RemoteError) throw error;
    const detail = explain(error);
    throw unreachableAt(socketPath, detail, error);
  }
}

/**
 * The pieces of an answer that goes on as long as it likes; none after `signal` aborts. Throws as
 * `ask` rejects.
 */
export async function* askStream(
  socketPath: string,
  path: string,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void> {
  const to = await wayTo(socketPath);
  try {
    const response = await send(to, { method: "GET", path, signal });
    if (response.statusCode !== 200) throw new RemoteError(failure.parse(await json(response)));
    for await (const piece of response) if (piece instanceof Uint8Array) yield piece;
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof RemoteError) throw error;
    const detail = explain(error);
    throw unreachableAt(socketPath, detail, error);
  }
}

function send(
  to: WayTo,
  of: {
    readonly method: string;
    readonly path: string;
    readonly body?: string | undefined;
    /** Without a byte for so long it is given up. */
    readonly timeoutMs?: number;
    readonly signal?: AbortSignal;
  },
): Promise<IncomingMessage> {
  const { method, path, body, timeoutMs, signal } = of;
  const length = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
  const headers = { ...length, ...to.headers };
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        ...to.at,
        method,
        path,
        headers,
        agent: false,
        ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }),
        ...(signal === undefined ? {} : { signal }),
      },
      resolve,
    );
    sent.once("timeout", () => sent.destroy(new Error(`no answer within ${timeoutMs} ms`)));
    sent.once("error", reject);
    sent.end(body);
  });
}

interface WayTo {
  readonly at: { readonly socketPath: string } | { readonly host: string; readonly port: number };
  readonly headers: Readonly<Record<string, string>>;
}

/** What is said here may be a password: another user's socket is not spoken to. */
async function wayTo(text: string): Promise<WayTo> {
  const place = parsePlace(text);
  if (!("socketPath" in place)) {
    const token = await readToken(place.tokenFile);
    const { host, port } = place;
    return { at: { host, port }, headers: { authorization: `Bearer ${token.reveal()}` } };
  }
  const detail = await strangerAt(place.socketPath);
  if (detail !== undefined) throw unreachableAt(text, detail);
  return { at: place, headers: {} };
}

/** For a `place` as daemon-place.ts writes it. */
export function unreachableAt(place: string, detail: string, cause?: unknown): DaemonError {
  const fault = { code: "daemon_unreachable", socketPath: placeName(place), detail } as const;
  return new DaemonError(fault, { cause });
}

function explain(error: unknown): string {
  if (error instanceof z.ZodError) return "it answers in a form this version does not know";
  return error instanceof Error ? error.message : String(error);
}
