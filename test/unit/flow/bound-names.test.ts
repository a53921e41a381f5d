// SPDX-License-Identifier: Apache-2.0
// Names that somebody else binds: what is bound and what the kernel is told agree, whatever comes
// in between.

import { join } from "node:path";
import { expect, test } from "vitest";
import type { Seed } from "../../../src/cache/seed-files.ts";
import { BoundNames, type BoundNamesParts } from "../../../src/flow/bound-names.ts";
import { rawStream } from "../../../src/flow/streams.ts";
import { Bindings, type Content, type StreamRecord } from "../../../src/state/bindings.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { FlowRig, asDigest } from "../../support/flow-rig.ts";
import { tempDir } from "../../support/temp-dir.ts";
import { turns } from "../../support/turns.ts";

const NAME = { volumeKey: "erofs,one", cookieKey: "one" };
const ORIGIN = { kind: "directory", host: "directory", repository: "/b" } as const;

function content(digit: string, blocks: number): Content {
  const digest = asDigest(digit.repeat(64));
  const size = blocks * BLOCK_BYTES;
  const stream: StreamRecord = { digest, size, origin: ORIGIN, format: "bootstrap" };
  return { reference: "fsid one", manifestDigest: digest, stream, devices: [] };
}

async function rig(more: Partial<BoundNamesParts> = {}) {
  const { source } = new FlowRig();
  const bindings = new Bindings(join(await tempDir(), "bindings.json"));
  await bindings.load();
  let isSlow = false;
  let goOn: () => void = () => undefined;
  const streams = {
    isComplete: () => Promise.resolve(true),
    open: async (record: StreamRecord) => {
      if (isSlow) await new Promise<void>((resolve) => void (goOn = resolve));
      return rawStream(record, source);
    },
  };
  const names = new BoundNames({
    seed: () => Promise.resolve(),
    bindings,
    streams,
    isOpen: () => false,
    mayBeMounted: () => false,
    ...more,
  });
  const slow = (): void => void (isSlow = true);
  return { names, slow, goOn: () => goOn() };
}

test("a name bound anew while it is being opened is not opened with the new one's size", async () => {
  const { names, slow, goOn } = await rig();
  await names.bind(NAME, content("a", 4));
  slow();
  const finding = names.find(NAME);
  await turns();
  const binding = names.bind(NAME, content("b", 9));
  await turns(10);
  goOn();
  const { stream, copenSize, release } = await finding;
  expect([stream.digest[7], copenSize]).toEqual(["a", 4 * BLOCK_BYTES]);
  release();
  expect((await binding).stream.digest[7]).toBe("b");
});

test("until what was found is served nobody binds the name, nor is it kept from others by a fault", async () => {
  let isOpen = false;
  const { names } = await rig({ isOpen: () => isOpen });
  expect(await rejectionOf(names.find(NAME))).toBe("key_unknown");
  await names.bind(NAME, content("a", 4));
  const { release } = await names.find(NAME);
  const binding = rejectionOf(names.bind(NAME, content("b", 4)));
  await turns(10);
  isOpen = true;
  release();
  expect(await binding).toBe("key_refused");
});

test("what is bound has its cache files put in place, devices again when its primary is opened", async () => {
  const seeded: Seed[][] = [];
  const open = new Set<string>();
  const { names } = await rig({
    isOpen: ({ cookieKey }) => open.has(cookieKey),
    async seed(seeds) {
      seeded.push([...seeds]);
    },
  });
  const { stream, ...rest } = content("a", 4);
  const blob: StreamRecord = { ...stream, digest: asDigest("b".repeat(64)), format: "rafs" };
  await names.bind(NAME, { ...rest, stream, devices: [blob] });
  const primary = { ...NAME, sizeBytes: 4 * BLOCK_BYTES };
  const device = { volumeKey: "erofs,one", cookieKey: "b".repeat(64), sizeBytes: 4 * BLOCK_BYTES };
  expect(seeded).toEqual([[primary, device]]);
  (await names.find(NAME)).release();
  open.add(device.cookieKey);
  (await names.find(NAME)).release();
  expect(seeded.slice(1)).toEqual([[device], []]);
});

test("after a takeover a name that may be mounted keeps its content", async () => {
  const { names } = await rig({ mayBeMounted: () => true });
  await names.bind(NAME, content("a", 4));
  await names.bind(NAME, content("a", 4));
  await names.unbind(NAME);
  expect(await rejectionOf(names.bind(NAME, content("b", 4)))).toBe("key_refused");
  const { stream, release } = await names.find(NAME);
  expect(stream.digest[7]).toBe("a");
  release();
  // Its cache file is gone, so nobody can have it mounted.
  await names.forget(NAME);
  await names.bind(NAME, content("b", 4));
});

test("a name that is opened while it is being forgotten is not forgotten", async () => {
  let isOpen = false;
  const { names } = await rig({ mayBeMounted: () => true, isOpen: () => isOpen });
  await names.bind(NAME, content("a", 4));
  await names.unbind(NAME);
  const { release } = await names.find(NAME);
  const forgetting = names.forget(NAME);
  await turns(10);
  isOpen = true;
  release();
  await forgetting;
  expect(names.get(NAME)?.stream.digest[7]).toBe("a");
});
