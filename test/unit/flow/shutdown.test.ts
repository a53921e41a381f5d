// SPDX-License-Identifier: Apache-2.0
// The engine behind the real door, stopped in the middle of its work: the order of main.ts.

import { expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { CachefilesSession } from "../../../src/kernel/cachefiles/session.ts";
import { BLOCK_BYTES } from "../../../src/units.ts";
import { FlowRig, patternBytes } from "../../support/flow-rig.ts";
import { openMessage, readMessage } from "../../support/kernel-messages.ts";
import { DEVICE_FD, ScriptedNative } from "../../support/scripted-native.ts";
import { turns } from "../../support/turns.ts";

const stopping = new DaemonError({ code: "stopping" });
const FD = 20;

interface Running {
  readonly rig: FlowRig;
  readonly native: ScriptedNative;
  readonly session: CachefilesSession;
}

/** An object is open and has two READs waiting, one for the source and one that joined it. */
async function running(): Promise<Running> {
  const rig = new FlowRig();
  const native = new ScriptedNative();
  const { clock, log, engine } = rig;
  const blob = rig.blob(patternBytes(20 * BLOCK_BYTES));
  const session = new CachefilesSession({ native, clock, log, deviceFd: DEVICE_FD });
  session.start(
    {
      open: (request) => {
        const object = request.accept(blob.size);
        if (object !== undefined) engine.serve(rig.stream(blob), object);
      },
      read: (request) => {
        engine.read(request);
      },
      closed: (object) => {
        engine.closed(object);
      },
    },
    () => undefined,
  );
  native.deliver(openMessage({ msgId: 1, objectId: 9, fd: FD }));
  native.jobs[0]?.resolve();
  await turns();
  native.deliver(readMessage({ msgId: 2, objectId: 9 }), readMessage({ msgId: 3, objectId: 9 }));
  await turns();
  return { rig, native, session };
}

function expectNothingLeft({ rig, native }: Running): void {
  expect(native.completed.toSorted()).toEqual([`${FD}:2`, `${FD}:3`]);
  expect(native.closedFds).toEqual([FD, DEVICE_FD]);
  expect([rig.slabs.lentCount, rig.clock.pendingCount, rig.engine.waitingReads]).toEqual([0, 0, 0]);
  expect(rig.engine.openObjects).toEqual([]);
}

test("readers waiting for the source are answered once, and nothing is left", async () => {
  const all = await running();
  all.rig.engine.abort(stopping);
  await all.session.stop(stopping);
  await turns();
  expectNothingLeft(all);
});

test("so it is when the door stops first", async () => {
  const all = await running();
  const stopped = all.session.stop(stopping);
  all.rig.engine.abort(stopping);
  await stopped;
  await turns();
  expectNothingLeft(all);
});

test("readers whose bytes are being written are answered once, and the write ends before its fd closes", async () => {
  const all = await running();
  all.rig.source.fetches[0]?.finish();
  await turns();
  expect(all.native.jobs.map(({ kind }) => kind)).toEqual(["pwrite"]);
  all.rig.engine.abort(stopping);
  const stopped = all.session.stop(stopping);
  await turns();
  expect([all.native.closedFds, all.rig.slabs.lentCount]).toEqual([[], 1]);
  all.native.jobs[0]?.resolve();
  await stopped;
  await turns();
  expectNothingLeft(all);
});
