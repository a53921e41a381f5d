// SPDX-License-Identifier: Apache-2.0
// What the daemon asks of the child that makes system calls for it, and what that one answers.

import * as z from "zod";
import type { Fault } from "../errors.ts";

const path = z.string().startsWith("/");
const files = z.strictObject({ primary: path, devices: z.array(path) });
const fscache = z.strictObject({
  fsid: z.string(),
  domainId: z.string(),
  devices: z.array(z.string()),
});

export const mountOrder = z.discriminatedUnion("kind", [
  /** May something be mounted there? Answers with its real path. */
  z.strictObject({ kind: z.literal("look"), path }),
  /** `target` absent: mounts it nowhere, for a trial. */
  z.strictObject({ kind: z.literal("mount"), image: fscache, target: path.optional() }),
  /** The same, but answers `file` or `loop`. */
  z.strictObject({
    kind: z.literal("mount-files"),
    image: files,
    target: path.optional(),
    mayLoop: z.boolean(),
  }),
  z.strictObject({ kind: z.literal("bind"), source: path, target: path }),
  z.strictObject({ kind: z.literal("unmount"), target: path, lazy: z.boolean() }),
]);
export type MountOrder = z.infer<typeof mountOrder>;

export const mountReply = z.union([
  z.strictObject({ done: z.string() }),
  z.strictObject({ fault: z.custom<Fault>((value) => typeof value === "object") }),
]);
export type MountReply = z.infer<typeof mountReply>;
