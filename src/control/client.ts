// SPDX-License-Identifier: Apache-2.0
// The command line's side of the control socket.

import { Client } from "undici";
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
  request: {
    method: "GET" | "POST" | "PATCH" | "DELETE";
    path: string;
    body?: object;
    answer: z.ZodType<T>;
  },
): Promise<T> {
  await refuseStrangers(socketPath);
  const client = new Client("http://erofsd", {
    socketPath,
    headersTimeout: ANSWER_TIMEOUT_MS,
    bodyTimeout: ANSWER_TIMEOUT_MS,
  });
  try {
    const { method, path } = request;
    const body = request.body === undefined ? null : JSON.stringify(request.body);
    const response = await client.request({ method, path, body });
    const json: unknown = await response.body.json();
    if (response.statusCode === 200) return request.answer.parse(json);
    throw new RemoteError(failure.parse(json));
  } catch (error) {
    if (error instanceof RemoteError) throw error;
    const detail = explain(error);
    throw new DaemonError({ code: "daemon_unreachable", socketPath, detail }, { cause: error });
  } finally {
    await client.destroy();
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
  const timeouts = { headersTimeout: ANSWER_TIMEOUT_MS, bodyTimeout: 0 };
  const client = new Client("http://erofsd", { socketPath, ...timeouts });
  try {
    const response = await client.request({ method: "GET", path, signal });
    if (response.statusCode !== 200) {
      throw new RemoteError(failure.parse(await response.body.json()));
    }
    for await (const piece of response.body) if (piece instanceof Uint8Array) yield piece;
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof RemoteError) throw error;
    const detail = explain(error);
    throw new DaemonError({ code: "daemon_unreachable", socketPath, detail }, { cause: error });
  } finally {
    await client.destroy();
  }
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
