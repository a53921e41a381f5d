// SPDX-License-Identifier: Apache-2.0
// Asking an API socket, and what lies where a daemon was killed.

import { link, rename } from "node:fs/promises";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { createServer } from "node:net";
import { isJson } from "../../../src/nydusd/bind-fields.ts";

export interface Answered {
  readonly status: number;
  readonly reason: string | undefined;
  readonly headers: IncomingMessage["headers"];
  /** Parsed JSON; undefined without a body. */
  readonly body: unknown;
}

/** A string is sent as it is. */
export function ask(
  socketPath: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath, method, path, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (piece: string) => {
        text += piece;
      });
      response.on("end", () => {
        const parsed: unknown = text === "" ? undefined : JSON.parse(text);
        resolve({
          status: response.statusCode ?? 0,
          reason: response.statusMessage,
          headers: response.headers,
          body: parsed,
        });
      });
    });
    request.on("error", reject);
    if (body === undefined) request.end();
    else request.end(typeof body === "string" ? body : JSON.stringify(body));
  });
}

/** The message of an error answer. */
export function messageOf(answered: Answered): unknown {
  return fieldOf(answered, "message");
}

export function fieldOf({ body }: Answered, name: string): unknown {
  return isJson(body) ? body[name] : undefined;
}

/** What a killed process leaves: a socket's file where nobody listens. */
export async function leaveStale(path: string): Promise<void> {
  const dead = createServer();
  await new Promise<void>((resolve) => {
    dead.listen(path, resolve);
  });
  await link(path, `${path}.kept`);
  await new Promise((resolve) => {
    dead.close(resolve);
  });
  await rename(`${path}.kept`, path);
}
