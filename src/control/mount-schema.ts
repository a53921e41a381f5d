// SPDX-License-Identifier: Apache-2.0
// What the control socket says of mounts.

import * as z from "zod";
import { DOORS, DOOR_WISHES } from "../config/config.ts";

const bytes = z.int().nonnegative();
const mountPoint = z.string().min(1).max(4096);
const door = z.enum(DOORS);

/** POST /v1/mounts */
export const mountRequest = z.strictObject({
  reference: z.string().min(1).max(4096),
  /** An absolute path of a directory that nothing is mounted on. */
  mountPoint: mountPoint.startsWith("/", "an absolute path"),
  /** `full`: all of it is fetched and verified before it is mounted. Default: `auto`, the daemon's own. */
  door: z.enum(DOOR_WISHES).optional(),
  /** How the image is filled from now on; default: as before, or as the configuration says. */
  fill: z.enum(["on-demand", "background"]).optional(),
  /** Give it up, for all who wait for it, when this client goes away before it is there. */
  cancelWithClient: z.boolean().optional(),
});
export type MountRequest = z.infer<typeof mountRequest>;

export const madeMount = z.strictObject({
  /** Links in the path are followed. */
  mountPoint: z.string(),
  door,
  reference: z.string(),
  manifestDigest: z.string(),
  fsid: z.string(),
  deviceCount: bytes,
  sizeBytes: bytes,
  /** The mount that is shown here too, where the kernel mounts an image but once. */
  sharedWith: z.string().optional(),
});
export type MadeMountAnswer = z.infer<typeof madeMount>;

const mount = z.strictObject({
  mountPoint: z.string(),
  /** `preparing`: it is not there yet. */
  state: z.enum(["mounted", "preparing"]),
  door: door.optional(),
  /** Of the image, where this daemon knows it, as all that follows. */
  reference: z.string().optional(),
  manifestDigest: z.string().optional(),
  fsid: z.string().optional(),
  domainId: z.string().optional(),
  deviceCount: bytes.optional(),
  sizeBytes: bytes.optional(),
  cachedBytes: bytes.optional(),
  /** Of an image that is fetched whole first. */
  progress: z.strictObject({ doneBytes: bytes, totalBytes: bytes }).optional(),
});
export type MountFacts = z.infer<typeof mount>;

/** GET /v1/mounts: those of the daemon's mount namespace, whoever made them. */
export const mountsAnswer = z.strictObject({ mounts: z.array(mount) });

/** Path parameter of /v1/mounts/{mountPoint}, percent-encoded. */
export const mountName = z.strictObject({ mountPoint });

export const unmountQuery = z.strictObject({
  /** Detach it now, finish when its last user has left. */
  lazy: z.enum(["true", "false"]).optional(),
});

export const unmounted = z.strictObject({ mountPoint: z.string() });
