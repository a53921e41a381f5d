// SPDX-License-Identifier: Apache-2.0
// What is cached of an image or a blob goes: asked for right after umount(2), and only once, when
// the kernel may not have closed everything yet.

import { type Culled, cullKey, cullVolume } from "./cache/cull.ts";
import { encodeCommand } from "./kernel/cachefiles/codec.ts";
import { volumeKeyOf } from "./kernel/cachefiles/keys.ts";
import type { Serving } from "./nydusd-serving.ts";
import { systemClock as clock, sleep } from "./platform/clock.ts";
import type { Native } from "./platform/native.ts";

const CLOSING_MS = 1000;
const AGAIN_MS = 20;

export interface ImageCullParts extends Pick<Serving, "engine" | "names" | "deviceFd"> {
  readonly native: Native;
  readonly cacheDir: string;
  readonly signal: AbortSignal;
}

/** `key`: an fsid or 64 hex digits of a blob. A domain of the image's own goes with it. */
export async function cullImage(parts: ImageCullParts, key: string): Promise<Culled> {
  const untilMs = clock.nowMs() + CLOSING_MS;
  for (;;) {
    const culled = await cullOnce(parts, key);
    const isLeaving = parts.names.bindingsOf(key).some(({ binding }) => binding.unbound === true);
    if (culled !== "in use" || !isLeaving || clock.nowMs() >= untilMs) return culled;
    await sleep(clock, AGAIN_MS, parts.signal);
  }
}

async function cullOnce(parts: ImageCullParts, key: string): Promise<Culled> {
  const { engine, names, native, deviceFd, cacheDir } = parts;
  if (engine.openObjects.some(({ cookieKey }) => cookieKey === key)) return "in use";
  const command = (text: string): void => {
    native.write(deviceFd, encodeCommand(text));
  };
  const culled = await cullKey({ cacheDir, command }, key);
  if (culled === "in use") return culled;
  for (const name of names.bindingsOf(key)) {
    const { volumeKey, cookieKey, binding } = name;
    if (binding.unbound !== true || engine.isOpen(volumeKey, cookieKey)) continue;
    const isItsOwn = volumeKey === volumeKeyOf(key);
    if (isItsOwn && (await cullVolume({ cacheDir, command }, volumeKey)) === "in use") {
      return "in use";
    }
    await names.forget(name);
  }
  return culled;
}
