// SPDX-License-Identifier: Apache-2.0
// Asks the control socket for its mounts, 500 times a second, for as long as something takes.

import { fork } from "node:child_process";
import { once } from "node:events";
import * as z from "zod";

const told = z.object({
  /** Milliseconds from when a request was due to its answer. */
  times: z.array(z.number()),
  /** How late requests were made. */
  lateTimes: z.array(z.number()),
  cpuShare: z.number(),
});
export type Asked = z.infer<typeof told>;

/** `until` begins when it does; both lists come sorted. */
export async function askSteadily<T>(
  socketPath: string,
  until: () => Promise<T>,
): Promise<Asked & { readonly result: T }> {
  const child = fork(new URL("asker-process.js", import.meta.url), [socketPath], { execArgv: [] });
  const ended = once(child, "exit").then(([code]) => {
    throw new Error(`the asker ended with ${String(code)}`);
  });
  ended.catch(() => undefined);
  await Promise.race([once(child, "message"), ended]);
  const answer = once(child, "message").then(([message]) => told.parse(message));
  answer.catch(() => undefined);
  const result = await until();
  child.send("end");
  const { times, lateTimes, cpuShare } = await Promise.race([answer, ended]);
  const bySize = (a: number, b: number): number => a - b;
  return {
    times: times.sort(bySize),
    lateTimes: lateTimes.sort(bySize),
    cpuShare,
    result,
  };
}
