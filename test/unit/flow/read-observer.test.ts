// SPDX-License-Identifier: Apache-2.0

import { expect, test } from "vitest";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { FlowRig, blocks, patternBytes } from "../../support/flow-rig.ts";

test("an observer sees every READ of an open object, also of what is cached", async () => {
  const rig = new FlowRig();
  const blob = rig.blob(patternBytes(20 * BLOCK_BYTES));
  const object = await rig.open(blob, (fake) => {
    fake.extents = [blocks(0, 4)];
  });
  const seen: unknown[] = [];
  rig.read(object, 0, 1);
  rig.engine.readObserver = (stream, request) => {
    seen.push([stream.digest, request.object.cookieKey, request.extent, request.answered]);
    return false;
  };
  rig.read(object, 1, 2);
  rig.read(object, 8, 9);
  rig.engine.readObserver = undefined;
  rig.read(object, 10, 11);
  rig.close(object);
  expect(seen).toEqual([
    [blob.digest, object.cookieKey, blocks(1, 2), false],
    [blob.digest, object.cookieKey, blocks(8, 9), false],
  ]);
});

test("what is recorded is fetched alone, so that the kernel asks for the rest too", async () => {
  const rig = new FlowRig();
  const object = await rig.open(rig.blob(patternBytes(200 * BLOCK_BYTES)));
  rig.engine.readObserver = () => true;
  for (let n = 0; n < 4; n += 1) {
    rig.read(object, n, n + 1);
    await rig.drain(object);
  }
  const fetched = rig.source.fetches.map(({ extent }) => extent);
  expect(fetched).toEqual([0, 1, 2, 3].map((n) => blocks(n, n + 1)));
});
