// SPDX-License-Identifier: Apache-2.0
// The command line's side of the control socket. With Node's own client: loading another would take
// longer than most of what is asked.

import { type IncomingMessage, request } from "node:http";
import { json } from "node:stream/consumers";
import * as z from "zod";
import { DaemonError } from "../errors.ts";
import { failure, type Failure } from "./schema.ts";
import { strangerAt } from "./socket-place.ts";

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
  await refuseStrangers(socketPath);
  try {
    const body = asked.body === undefined ? undefined : JSON.stringify(asked.body);
    const response = await send(socketPath, { timeoutMs: ANSWER_TIMEOUT_MS, ...asked, body });
    const value: unknown = await json(response);
    if (response.statusCode === 200) return asked.answer.parse(value);
    throw new RemoteError(failure.parse(value));
  } catch (error) {
    if (error instanceof RemoteError) throw error;
    const detail = explain(error);
    throw new DaemonError({ code: "daemon_unreachable", socketPath, detail }, { cause: error });
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
  await refuseStrangers(socketPath);
  try {
    const response = await send(socketPath, { method: "GET", path, signal });
    if (response.statusCode !== 200) throw new RemoteError(failure.parse(await json(response)));
    for await (const piece of response) if (piece instanceof Uint8Array) yield piece;
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof RemoteError) throw error;
    const detail = explain(error);
    throw new DaemonError({ code: "daemon_unreachable", socketPath, detail }, { cause: error });
  }
}

function send(
  socketPath: string,
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
  const headers = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        socketPath,
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

/** What is said here may be a password: another user's socket is not spoken to. */
async function refuseStrangers(socketPath: string): Promise<void> {
  const detail = await strangerAt(socketPath);
  if (detail !== undefined)
    throw new DaemonError({ code: "daemon_unreachable", socketPath, detail });
}

function explain(error: unknown): string {
  if (error instanceof z.ZodError) return "it answers in a form this version does not know";
  return error instanceof Error ? error.message : String(error);
}
