// SPDX-License-Identifier: Apache-2.0
// `erofsd upgrade`: the program as it is on disk now takes over from the daemon that runs.

import { setTimeout as sleep } from "node:timers/promises";
import { ask } from "../control/client.ts";
import { healthAnswer, upgradeAnswer } from "../control/schema.ts";
import { DaemonError } from "../errors.ts";
import { type Output, jsonLine } from "./output.ts";

/** Longer than the old daemon gives the new one. */
const LIMIT_MS = 60_000;
const LOOK_EVERY_MS = 100;

/** Resolves when the new daemon answers. Fault: upgrade_failed; the old one goes on then. */
export async function upgradeCommand(
  given: { readonly socketPath: string; readonly json: boolean },
  output: Output = process.stdout,
): Promise<void> {
  const { socketPath } = given;
  const before = await ask(socketPath, health);
  const startMs = performance.now();
  const { pid } = await ask(socketPath, {
    method: "POST",
    path: "/v1/upgrade",
    answer: upgradeAnswer,
  });
  const after = await untilAnswers(socketPath, { old: before.pid, pid, startMs });
  const seconds = Math.round(performance.now() - startMs) / 1000;
  if (given.json) {
    const from = { version: before.version, pid: before.pid };
    output.write(jsonLine({ from, to: { version: after.version, pid }, seconds }));
    return;
  }
  output.write(`erofsd ${before.version} -> ${after.version}, pid ${pid}, in ${seconds} s\n`);
}

const health = { method: "GET", path: "/v1/health", answer: healthAnswer } as const;

async function untilAnswers(
  socketPath: string,
  { old, pid, startMs }: { old: number; pid: number; startMs: number },
): Promise<{ version: string }> {
  let wasAway = false;
  while (performance.now() - startMs < LIMIT_MS) {
    const answer = await ask(socketPath, health).catch(() => undefined);
    if (answer?.pid === pid) return answer;
    wasAway ||= answer === undefined;
    if (wasAway && answer?.pid === old) {
      const detail = "it did not get ready, and the old one goes on";
      throw new DaemonError({ code: "upgrade_failed", detail });
    }
    if (answer !== undefined && answer.pid !== old) {
      const detail = `the old daemon and the new one are gone, and another serves (pid ${answer.pid})`;
      throw new DaemonError({ code: "upgrade_failed", detail });
    }
    await sleep(LOOK_EVERY_MS);
  }
  const detail = `no daemon answers at ${socketPath} after ${LIMIT_MS / 1000} s`;
  throw new DaemonError({ code: "upgrade_failed", detail });
}
