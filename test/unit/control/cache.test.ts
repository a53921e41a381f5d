// SPDX-License-Identifier: Apache-2.0
// Giving up what is cached, forgetting images and changing the configuration, over the control socket.

import { describe, expect, test } from "vitest";
import { registeredImage } from "../../../src/control/schema.ts";
import { ControlRig } from "../../support/control-rig.ts";

const REFERENCE = "registry.example/app:v1";

/** A registered image, and its key. */
async function registered(rig: ControlRig): Promise<string> {
  rig.names.publish(REFERENCE, rig.names.image());
  const { json } = await rig.register(REFERENCE);
  return registeredImage.parse(json).fsid;
}

function keep(rig: ControlRig, id: string, { usedMs = 0, isOpen = false } = {}): void {
  const file = {
    id,
    bytes: 1000,
    usedMs,
    drop: () => {
      if (!isOpen) rig.cachedFiles = rig.cachedFiles.filter((one) => one !== file);
      return Promise.resolve(!isOpen);
    },
  };
  rig.cachedFiles.push(file);
}

const left = (rig: ControlRig): string[] => rig.cachedFiles.map(({ id }) => id);
const prune = (rig: ControlRig, body: object) =>
  rig.ask("POST", "/v1/cache/prune", JSON.stringify(body));

describe("prune", () => {
  test("by an image takes its files alone, and leaves what is open", async () => {
    const rig = await ControlRig.start();
    const fsid = await registered(rig);
    for (const id of [fsid, "other"]) keep(rig, id);
    const { json } = await prune(rig, { image: REFERENCE });
    expect([json, left(rig)]).toEqual([{ files: 1, bytes: 1000, inUse: 0 }, ["other"]]);
    keep(rig, fsid, { isOpen: true });
    expect((await prune(rig, { all: true })).json).toEqual({ files: 1, bytes: 1000, inUse: 1 });
    expect(left(rig)).toEqual([fsid]);
  });

  test("by age and down to a size takes the oldest first", async () => {
    const rig = await ControlRig.start();
    const nowMs = Date.now();
    keep(rig, "new", { usedMs: nowMs });
    keep(rig, "older", { usedMs: nowMs - 90_000 });
    keep(rig, "oldest", { usedMs: nowMs - 9_000_000 });
    await prune(rig, { olderThanSeconds: 3600 });
    expect(left(rig)).toEqual(["new", "older"]);
    await prune(rig, { leaveBytes: 1000 });
    expect(left(rig)).toEqual(["new"]);
    await prune(rig, { leaveBytes: 1000, olderThanSeconds: 0 });
    expect(left(rig)).toEqual(["new"]);
  });

  test("of nothing that is said, or of no known image, is refused", async () => {
    const rig = await ControlRig.start();
    keep(rig, "one");
    expect((await prune(rig, {})).json).toMatchObject({ code: "request_invalid", field: "body" });
    expect(await prune(rig, { image: "none" })).toMatchObject({ status: 404 });
    expect(left(rig)).toEqual(["one"]);
  });
});

describe("removing an image", () => {
  const path = `/v1/images/${encodeURIComponent(REFERENCE)}`;

  test("forgets it and gives up what is cached of it", async () => {
    const rig = await ControlRig.start();
    const fsid = await registered(rig);
    keep(rig, fsid);
    expect((await rig.ask("DELETE", path)).json).toMatchObject({ fsid, files: 1, bytes: 1000 });
    expect([left(rig), (await rig.ask("GET", path)).status]).toEqual([[], 404]);
    expect((await rig.ask("DELETE", path)).json).toMatchObject({ code: "image_unknown" });
    expect(await registered(rig)).toBe(fsid);
  });

  test("is refused while it is mounted, saying where, or open, or being prefetched", async () => {
    const rig = await ControlRig.start();
    const fsid = await registered(rig);
    keep(rig, fsid);
    rig.mountPoints = ["/mnt/a", "/mnt/b"];
    const mounted = await rig.ask("DELETE", path);
    expect([mounted.status, mounted.json]).toEqual([
      409,
      expect.objectContaining({
        code: "image_in_use",
        message: `"${REFERENCE}" is in use: mounted at /mnt/a, /mnt/b`,
      }),
    ]);
    rig.mountPoints = [];
    const body = JSON.stringify({ reference: REFERENCE });
    await rig.ask("POST", "/v1/prefetches", body);
    expect((await rig.ask("DELETE", path)).text).toContain("being prefetched");
    expect(left(rig)).toEqual([fsid]);
    expect((await rig.ask("GET", path)).status).toBe(200);
  });
});

describe("the configuration", () => {
  const change = (rig: ControlRig, changes: object) =>
    rig.ask("PATCH", "/v1/config", JSON.stringify(changes));

  test("is changed where it is live, at once and together", async () => {
    const rig = await ControlRig.start();
    const changes = {
      "log.level": "debug",
      "prefetch.bandwidth": "10MiB",
      "engine.window": "2MiB",
      "registry.hedge_percent": 0.5,
    };
    const { json } = await change(rig, changes);
    const shown = { log: { level: "debug" }, prefetch: { bandwidth: "10MiB" } };
    expect(json).toMatchObject({ ...shown, engine: { window: "2MiB", window_max: "8MiB" } });
    expect(json).toMatchObject({ registry: { hedge_percent: 0.5 } });
    expect(rig.taken).toEqual(["debug", 10 << 20, [2 << 20, 8 << 20], 0.5]);
    expect((await rig.ask("GET", "/v1/config")).json).toMatchObject(shown);
  });

  test.each([
    [{ "cache.dir": "/tmp" }, "cache.dir", "restart"],
    [{ "log.level": "loud" }, "log.level", "Invalid option"],
    [{ "registry.hedge_percent": 51 }, "registry.hedge_percent", "<=50"],
    [{ "log.colour": "red" }, "log.colour", "unknown key"],
    [{ "prefetch.bandwidth": 5 }, "prefetch.bandwidth", "a size as text"],
    [{}, "body", "changes nothing"],
  ])("%j is refused, and nothing is changed", async (wrong, field, detail) => {
    const rig = await ControlRig.start();
    const changes = Object.keys(wrong).length === 0 ? wrong : { "log.level": "debug", ...wrong };
    const { status, json } = await change(rig, changes);
    expect([status, JSON.stringify(json)]).toEqual([400, expect.stringContaining(detail)]);
    expect(json).toMatchObject({ field });
    expect([rig.taken, rig.config.log.level]).toEqual([[], "info"]);
  });
});
