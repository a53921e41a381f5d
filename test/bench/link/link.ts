// SPDX-License-Identifier: Apache-2.0
// Starts an emulated link in front of a server and changes its shape while it runs.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import * as z from "zod";
import type { LinkStats } from "./proxy.ts";
import type { LinkShape } from "./wire.ts";

const shapeSchema = z.object({
  roundTripMs: z.number().min(0),
  bandwidth: z.number().min(0),
  connectionBandwidth: z.number().min(0),
  loss: z.number().min(0).max(1),
});
export const linkRequest = z.object({ shape: shapeSchema.optional() });
const linkAddress = z.object({ address: z.string() });
const linkStats = z.object({
  connections: z.number(),
  downBytes: z.number(),
  upBytes: z.number(),
  losses: z.number(),
  cpuMs: z.number(),
});

export const UNSHAPED: LinkShape = {
  roundTripMs: 0,
  bandwidth: 0,
  connectionBandwidth: 0,
  loss: 0,
};

export interface Link {
  /** `127.0.0.1:<port>`. */
  readonly address: string;
  /** Of connections that there are and of those to come. */
  reshape(shape: LinkShape): Promise<void>;
  stats(): Promise<LinkStats & { readonly cpuMs: number }>;
  stop(): Promise<void>;
}

/** A link in front of `target`, `host:port`. */
export async function startLink(target: string): Promise<Link> {
  const child = fork(new URL("process.js", import.meta.url), [target], { execArgv: [] });
  const { address } = linkAddress.parse(await nextMessage(child));
  const ask = async (request: z.infer<typeof linkRequest>) => {
    const answer = nextMessage(child);
    child.send(request);
    return linkStats.parse(await answer);
  };
  return {
    address,
    async reshape(shape) {
      await ask({ shape });
    },
    stats: () => ask({}),
    async stop() {
      const ended = once(child, "exit");
      child.disconnect();
      await ended;
    },
  };
}

async function nextMessage(child: ChildProcess): Promise<unknown> {
  const stop = new AbortController();
  const ended = once(child, "exit", { signal: stop.signal }).then(() => {
    throw new Error("the link ended");
  });
  // Aborted below, when the message was first.
  ended.catch(() => undefined);
  try {
    const message = once(child, "message", { signal: stop.signal });
    const first: unknown[] = await Promise.race([message, ended]);
    return first[0];
  } finally {
    stop.abort();
  }
}
