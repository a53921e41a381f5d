// SPDX-License-Identifier: Apache-2.0
// From what people write (a mount point, or a name) to the image that the daemon knows.

import { realpath } from "node:fs/promises";
import { ask } from "../control/client.ts";
import { type ImageDetail, imageDetail } from "../control/image-schema.ts";
import { mountsAnswer } from "../control/mount-schema.ts";
import { DaemonError } from "../errors.ts";
import { listMounts } from "../kernel/mountinfo.ts";

/** Faults: image_unknown, usage_invalid for a mount that is none of erofsd, those of `ask`. */
export async function findImage(socketPath: string, named: string): Promise<ImageDetail> {
  const target = await realpath(named).catch(() => undefined);
  const isMounted = (await listMounts()).some(({ mountPoint }) => mountPoint === target);
  const name = isMounted ? await fsidAt(socketPath, target ?? named) : named;
  const path = `/v1/images/${encodeURIComponent(name)}`;
  return ask(socketPath, { method: "GET", path, answer: imageDetail });
}

async function fsidAt(socketPath: string, target: string): Promise<string> {
  const asked = { method: "GET", path: "/v1/mounts", answer: mountsAnswer } as const;
  const { mounts } = await ask(socketPath, asked);
  const found = mounts.findLast(
    ({ mountPoint, state }) => mountPoint === target && state === "mounted",
  );
  if (found?.fsid !== undefined) return found.fsid;
  const detail = `${target} is no mount of an image that the daemon knows`;
  throw new DaemonError({ code: "usage_invalid", detail });
}
