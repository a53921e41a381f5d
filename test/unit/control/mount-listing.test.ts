// SPDX-License-Identifier: Apache-2.0
// The list of mounts that is kept: put together once for whoever asks at once, and anew as soon as
// there is another mount.

import { expect, test } from "vitest";
import * as z from "zod";
import { MountListing } from "../../../src/control/mount-listing.ts";
import { mountsAnswer } from "../../../src/control/mount-schema.ts";
import type { OurMount } from "../../../src/mounts/mount-list.ts";
import type { PendingMount } from "../../../src/mounts/mounts.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { digestOf } from "../../support/flow-rig.ts";

const DIGEST = digestOf(new Uint8Array(1));
const stream = {
  digest: DIGEST,
  size: 4096,
  origin: { kind: "registry", host: "h", repository: "r" },
} as const;
const binding = { reference: "h/r:t", manifestDigest: DIGEST, stream, devices: [], past: [] };
const image = { volumeKey: "erofs,erofsd", cookieKey: "key", binding };
const names = { fsid: "key", domainId: "erofsd" } as const;
const mountAt = (mountPoint: string): OurMount => {
  return { mountPoint, root: "/", door: "cachefiles", ...names, image };
};

function start() {
  const clock = new FakeClock();
  const state = { mounted: [mountAt("/a")], revision: 1, counted: 0, cachedBytes: 0 };
  const pending: PendingMount[] = [];
  let counting = Promise.resolve();
  const listing = new MountListing({
    clock,
    mounts: {
      list: () => Promise.resolve(state.mounted),
      pending,
      get revision() {
        return state.revision;
      },
    },
    images: {
      async cachedBytesOf(images) {
        state.counted += 1;
        await counting;
        return images.map(() => state.cachedBytes);
      },
    },
  });
  const ask = async () => {
    const { text } = await listing.answer();
    const parsed = mountsAnswer.parse(JSON.parse(z.instanceof(Uint8Array).parse(text).toString()));
    return parsed.mounts.map(({ mountPoint, cachedBytes }) => [mountPoint, cachedBytes]);
  };
  const slowly = () => {
    let goOn = (): void => undefined;
    counting = new Promise((resolve) => {
      goOn = resolve;
    });
    return () => {
      goOn();
    };
  };
  return { clock, state, ask, slowly };
}

test("is put together once for all who ask at once, and kept", async () => {
  const { state, ask, slowly, clock } = start();
  const goOn = slowly();
  const asked = [ask(), ask(), ask()];
  goOn();
  expect(await Promise.all(asked)).toEqual([[["/a", 0]], [["/a", 0]], [["/a", 0]]]);
  state.cachedBytes = 4096;
  expect(await ask()).toEqual([["/a", 0]]);
  await clock.advance(101);
  expect([await ask(), state.counted]).toEqual([[["/a", 4096]], 2]);
});

test("is another one at once when a mount has come or gone, also in the middle", async () => {
  const { state, ask, slowly } = start();
  await ask();
  const goOn = slowly();
  state.mounted = [mountAt("/a"), mountAt("/b")];
  const first = ask();
  state.mounted = [mountAt("/b")];
  const second = ask();
  goOn();
  expect(await first).toHaveLength(2);
  expect(await second).toEqual([["/b", 0]]);
  expect(await ask()).toEqual([["/b", 0]]);
  state.revision += 1;
  const { counted } = state;
  await ask();
  expect(state.counted).toBe(counted + 1);
});

test("rests twenty times as long as counting took", async () => {
  const { state, ask, slowly, clock } = start();
  const goOn = slowly();
  const slow = ask();
  await clock.advance(50);
  goOn();
  await slow;
  await clock.advance(900);
  await ask();
  expect(state.counted).toBe(1);
  await clock.advance(101);
  await ask();
  expect(state.counted).toBe(2);
});
