// SPDX-License-Identifier: Apache-2.0
// Events over a real socket: what is told, in which form, and who is not waited for.

import { get } from "node:http";
import { describe, expect, onTestFinished, test } from "vitest";
import { ERROR_POLICY } from "../../../src/errors.ts";
import { EventHub } from "../../../src/control/event-hub.ts";
import { type EventData, eventData } from "../../../src/control/image-schema.ts";
import { registeredImage } from "../../../src/control/schema.ts";
import { ControlRig } from "../../support/control-rig.ts";
import { thrownBy } from "../../support/fault-code.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { TAG } from "../../support/names-rig.ts";

/** Listens over HTTP as any client of Server-Sent Events does. */
async function listen(rig: ControlRig) {
  const events: EventData[] = [];
  let raw = "";
  let isEnded = false;
  const contentType = await new Promise<string | undefined>((resolve, reject) => {
    const asking = get({ socketPath: rig.socketPath, path: "/v1/events" }, (response) => {
      response.setEncoding("utf8");
      response.on("data", (piece: string) => {
        raw += piece;
        const blocks = raw.split("\n\n").slice(0, -1);
        const data = blocks.flatMap((block) => /^data: (.*)$/m.exec(block)?.[1] ?? []);
        events.splice(0, events.length, ...data.map((text) => eventData.parse(JSON.parse(text))));
      });
      response.on("end", () => {
        isEnded = true;
      });
      response.on("error", () => undefined);
      resolve(response.headers["content-type"]);
    });
    asking.on("error", reject);
    onTestFinished(() => void asking.destroy());
  });
  return { events, contentType, raw: () => raw, isEnded: () => isEnded };
}

describe("whoever listens", () => {
  test("is told of an image from its binding to its close, in order", async () => {
    const rig = await ControlRig.start();
    const listener = await listen(rig);
    expect(listener.contentType).toBe("text/event-stream");
    rig.names.publish(TAG, rig.names.image());
    const { json } = await rig.register(TAG);
    const { fsid, manifestDigest } = registeredImage.parse(json);
    const open = await rig.open(fsid);
    rig.failFill(fsid, "it is down");
    if (open.object === undefined) throw new Error("it was not opened");
    rig.handler.closed(open.object);
    await rig.names.until(() => listener.events.length === 4);
    const volume = "erofs,erofsd";
    expect(listener.events.map(({ id: _id, at: _at, ...rest }) => rest)).toEqual([
      { type: "image-bound", fsid, reference: TAG, manifestDigest },
      { type: "object-opened", fsid, volume, sizeBytes: open.copenSize },
      {
        type: "fill-failed",
        fsids: [fsid],
        failure: {
          code: "registry_unreachable",
          message: "registry h cannot be reached: it is down",
          hint: ERROR_POLICY.registry_unreachable.hint,
        },
      },
      { type: "object-closed", fsid, volume },
    ]);
    const ids = listener.events.map(({ id }) => id);
    expect(ids).toEqual(ids.map((_, index) => (ids[0] ?? 0) + index));
    expect(listener.raw()).toContain(`id: ${ids[0]}\nevent: image-bound\ndata: {`);
  });

  test("is not told again of an image that is bound to the same", async () => {
    const rig = await ControlRig.start();
    const listener = await listen(rig);
    rig.names.publish(TAG, rig.names.image());
    await rig.register(TAG);
    await rig.register(TAG);
    rig.events.publish({ type: "open-failed", fsid: "x", failure: { code: "c", message: "m" } });
    await rig.names.until(() => listener.events.some(({ type }) => type === "open-failed"));
    expect(listener.events.map(({ type }) => type)).toEqual(["image-bound", "open-failed"]);
  });

  test("is told when the daemon stops, and the stream ends well", async () => {
    const rig = await ControlRig.start();
    const listener = await listen(rig);
    rig.events.stop();
    await rig.server.close();
    await rig.names.until(() => listener.isEnded());
    expect(listener.events.map(({ type }) => type)).toEqual(["stopping"]);
  });

  test("is forgotten when it is gone", async () => {
    const rig = await ControlRig.start();
    const asking = get({ socketPath: rig.socketPath, path: "/v1/events" });
    asking.on("error", () => undefined);
    await rig.names.until(() => rig.events.listenerCount === 1);
    asking.destroy();
    await rig.names.until(() => rig.events.listenerCount === 0);
    expect(rig.names.flow.clock.pendingCount).toBe(0);
  });
});

describe("the hub", () => {
  const never = (): AbortSignal => new AbortController().signal;
  const hubOf = () => {
    const clock = new FakeClock();
    return { clock, hub: new EventHub({ clock, unixMs: () => 0 }) };
  };
  const closed = { type: "object-closed", fsid: "k", volume: "v" } as const;

  test("drops what a listener does not take, tells how much, and goes on", async () => {
    const { hub } = hubOf();
    const pieces = hub.listen(never());
    for (let n = 0; n < 1000; n += 1) hub.publish(closed);
    const first = await pieces.next();
    hub.publish(closed);
    const second = await pieces.next();
    const text = `${String(first.value)}${String(second.value)}`;
    const told = [...text.matchAll(/^data: (.*)$/gm)].map(([, json]) =>
      eventData.parse(JSON.parse(json ?? "")),
    );
    const dropped = told.find(({ type }) => type === "dropped");
    // The first comment has a place too.
    expect(dropped).toMatchObject({ count: 745, id: 1000 });
    expect(told.at(-1)).toMatchObject({ type: "object-closed", id: 1001 });
    expect(told.length).toBe(255 + 1 + 1);
    await pieces.return();
  });

  test("says something from time to time, so that the dead are found", async () => {
    const { clock, hub } = hubOf();
    const pieces = hub.listen(never());
    expect((await pieces.next()).value).toBe(": events\n\n");
    const next = pieces.next();
    await clock.advance(15_000);
    expect((await next).value).toMatch(/^: /);
    await pieces.return();
    expect(clock.pendingCount).toBe(0);
  });

  test("has room for so many, and again when one leaves", async () => {
    const { hub } = hubOf();
    const leave = new AbortController();
    for (let n = 0; n < 15; n += 1) hub.listen(never());
    hub.listen(leave.signal);
    expect(thrownBy(() => hub.listen(never()))).toBe("daemon_busy");
    leave.abort();
    expect(hub.listenerCount).toBe(15);
    await hub.listen(never()).return();
  });

  test("ends every stream with the same last word", async () => {
    const { hub } = hubOf();
    const pieces = hub.listen(never());
    hub.stop();
    let text = "";
    for await (const piece of pieces) text += piece;
    expect(text).toContain("event: stopping\n");
  });
});
