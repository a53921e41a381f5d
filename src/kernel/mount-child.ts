// SPDX-License-Identifier: Apache-2.0
// The daemon's side of a short-lived child that makes the system calls of mounting. Such a call
// waits for answers of this very daemon, and cannot be killed meanwhile: so neither the event loop
// nor the daemon's own threads may make it. A child that is too late is killed; it then ends
// before it has put anything into the tree.

import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { DaemonError, type Fault } from "../errors.ts";
import type { Clock } from "../platform/clock.ts";
import { findPackageRoot } from "../platform/package-root.ts";
import { type MountOrder, mountReply } from "./mount-orders.ts";

const PROGRAM = "dist/cli/erofsd-mount.js";

/** For a mount that is only tried: a child's start takes long on a slow machine, so this only ends a hang. */
export const TRIAL_MS = 60_000;

/** Carries out one order at a time. */
export interface MountChild {
  /** Resolves with what it answers. Faults: the order's own, deadline_exceeded, cancelled. */
  carryOut(order: MountOrder, timeoutMs: number, signal?: AbortSignal): Promise<string>;
  /** Ends it, whatever it does. Idempotent. */
  close(): void;
}

/** Starts one. It is soon there, so it is best started before it is needed. */
export function startMountChild(clock: Clock): MountChild {
  const child = fork(fileURLToPath(new URL(PROGRAM, findPackageRoot())), [], {
    execArgv: [],
    // Nothing else of ours is its business: credentials may be in the environment.
    env: { PATH: process.env["PATH"] },
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  // What it dies of is told to whoever waits for it.
  child.on("error", () => undefined);
  return {
    carryOut: (order, timeoutMs, signal) => ask(clock, child, { order, timeoutMs, signal }),
    close() {
      if (child.connected) child.disconnect();
      child.kill("SIGKILL");
    },
  };
}

function ask(
  clock: Clock,
  child: ChildProcess,
  asked: { order: MountOrder; timeoutMs: number; signal: AbortSignal | undefined },
): Promise<string> {
  const { order, timeoutMs, signal } = asked;
  const what = describe(order);
  return new Promise((resolve, reject) => {
    const end = (settle: () => void): void => {
      cancelTimer();
      child.off("message", answered).off("exit", died);
      signal?.removeEventListener("abort", leave);
      settle();
    };
    const fail = (fault: Fault): void => {
      end(() => {
        reject(new DaemonError(fault));
      });
    };
    const answered = (message: unknown): void => {
      const reply = mountReply.parse(message);
      if ("fault" in reply) fail(reply.fault);
      else end(() => resolve(reply.done));
    };
    const died = (): void => {
      fail({ code: "internal", detail: `${what}: the child that does it has died` });
    };
    const leave = (): void => {
      child.kill("SIGKILL");
      fail({ code: "cancelled", what });
    };
    const cancelTimer = clock.after(timeoutMs, () => {
      child.kill("SIGKILL");
      fail({ code: "deadline_exceeded", what, timeoutMs });
    });
    child.on("message", answered).on("exit", died);
    signal?.addEventListener("abort", leave, { once: true });
    if (signal?.aborted === true) leave();
    else if (child.exitCode === null && child.signalCode === null) child.send(order, sent);
    else died();

    function sent(error: Error | null): void {
      if (error !== null) fail({ code: "internal", detail: `${what}: ${error.message}` });
    }
  });
}

function describe(order: MountOrder): string {
  switch (order.kind) {
    case "look":
      return `looking at ${order.path}`;
    case "unmount":
      return `unmounting ${order.target}`;
    case "bind":
      return `mounting at ${order.target}`;
    case "mount":
    case "mount-files":
      return order.target === undefined ? "mounting for a trial" : `mounting at ${order.target}`;
    default:
      throw new Error(`unreachable: ${JSON.stringify(order satisfies never)}`);
  }
}
