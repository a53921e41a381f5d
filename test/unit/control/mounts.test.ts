// SPDX-License-Identifier: Apache-2.0
// Mounts over the control socket: made, listed, ended, on a kernel whose tree a test scripts.

import { request } from "node:http";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { registeredImage } from "../../../src/control/schema.ts";
import type { FileMounts } from "../../../src/file-mounts.ts";
import { cacheFileName, openPath } from "../../../src/kernel/fanotify/names.ts";
import { parseMountinfo } from "../../../src/kernel/mountinfo.ts";
import { ControlRig, type ControlRigOptions } from "../../support/control-rig.ts";
import { syscallFault } from "../../support/fake-mounting.ts";
import { TAG, VOLUME } from "../../support/names-rig.ts";

let rig: ControlRig;

async function start(options: ControlRigOptions = {}): Promise<ControlRig> {
  rig = await ControlRig.start(options);
  rig.names.publish(TAG, rig.names.image({ devices: [new Uint8Array(4096)], tags: [""] }));
  return rig;
}

beforeEach(() => start());

const mount = (fields: object = {}) =>
  rig.ask(
    "POST",
    "/v1/mounts",
    JSON.stringify({ reference: TAG, mountPoint: "/mnt/a", ...fields }),
  );
const list = async () => (await rig.ask("GET", "/v1/mounts")).json;
const umount = (path: string, query = "") =>
  rig.ask("DELETE", `/v1/mounts/${encodeURIComponent(path)}${query}`);

describe("a mount", () => {
  test("is made, listed with its image, and ended", async () => {
    const made = await mount();
    expect([made.status, made.json]).toEqual([
      200,
      expect.objectContaining({
        mountPoint: "/mnt/a",
        door: "cachefiles",
        reference: TAG,
        deviceCount: 1,
      }),
    ]);
    expect(await list()).toMatchObject({
      mounts: [
        {
          mountPoint: "/mnt/a",
          state: "mounted",
          door: "cachefiles",
          reference: TAG,
          deviceCount: 1,
        },
      ],
    });
    expect(await umount("/mnt/a")).toMatchObject({ status: 200, json: { mountPoint: "/mnt/a" } });
    expect(await list()).toEqual({ mounts: [] });
    expect(rig.mounting.open).toBe(0);
  });

  test("made by mount(8) is listed too, with its image where the daemon knows it", async () => {
    const { fsid } = registeredImage.parse((await rig.register(TAG)).json);
    const text = [
      `36 35 0:30 / /mnt/bare ro - erofs none ro,fsid=${fsid},domain_id=erofsd`,
      "37 35 0:31 / /mnt/other ro - erofs none ro,fsid=foreign,domain_id=else",
      "38 35 8:1 / /mnt/block ro - erofs /dev/sda1 ro",
      `39 35 0:32 / /mnt/elsewhere ro - erofs /other/fanotify/open/0a-1-d-${"ab".repeat(32)}-1 ro`,
      "40 35 8:2 / / rw - ext4 /dev/sda2 rw",
    ].join("\n");
    rig.mounting.entries.push(...parseMountinfo(text));
    expect(await list()).toEqual({
      mounts: [
        expect.objectContaining({
          mountPoint: "/mnt/bare",
          reference: TAG,
          fsid,
          door: "cachefiles",
        }),
        {
          mountPoint: "/mnt/other",
          state: "mounted",
          door: "cachefiles",
          fsid: "foreign",
          domainId: "else",
        },
      ],
    });
    expect(await rig.mounts.mountsOf({ volumeKey: VOLUME, cookieKey: fsid })).toEqual([
      "/mnt/bare",
    ]);
    expect(await umount("/mnt/bare")).toMatchObject({ status: 200 });
    expect(await rig.mounts.mountsOf({ volumeKey: VOLUME, cookieKey: fsid })).toEqual([]);
  });

  test("of files tells its door by what is mounted", async () => {
    const { fsid } = registeredImage.parse((await rig.register(TAG)).json);
    const file = cacheFileName({ volumeKey: VOLUME, cookieKey: fsid }, 4096);
    for (const isWhole of [false, true]) {
      const path = openPath(rig.cacheDir, { run: "0a", id: 1, isWhole, file });
      const [entry] = parseMountinfo(`36 35 0:30 / /mnt/${isWhole} ro - erofs ${path} ro`);
      if (entry !== undefined) rig.mounting.entries.push(entry);
    }
    expect(await list()).toMatchObject({
      mounts: [
        { mountPoint: "/mnt/false", door: "fanotify", reference: TAG },
        { mountPoint: "/mnt/true", door: "full", reference: TAG },
      ],
    });
  });

  test("is not made where it will not do, and nothing is kept of its image", async () => {
    for (const mountPoint of ["relative", "/none"]) {
      const reply = await mount({ mountPoint });
      expect(reply).toMatchObject({
        status: 400,
        json: { code: "request_invalid", field: "mountPoint" },
      });
    }
    expect([...rig.names.bindings.all()]).toEqual([]);
    await mount();
    const again = await mount();
    expect(again).toMatchObject({
      status: 400,
      json: {
        field: "mountPoint",
        message: "mountPoint: /mnt/a is in use: erofs is mounted there",
      },
    });
    expect(rig.mounting.open).toBe(0);
  });

  test("whose image is looked for meanwhile is given up as soon as the place will not do", async () => {
    rig.names.publish(TAG, "stall");
    let tell: () => void = () => undefined;
    rig.mounting.before = () =>
      new Promise((resolve) => {
        tell = resolve;
      });
    const mounting = mount({ mountPoint: "/none" });
    await rig.names.until(() => rig.names.resolved.length === 1);
    tell();
    expect(await mounting).toMatchObject({ status: 400, json: { field: "mountPoint" } });
    expect([await list(), rig.mounting.open]).toEqual([{ mounts: [] }, 0]);
  });

  test("whose image is not there is refused though the place is still looked at", async () => {
    rig.mounting.before = () => new Promise(() => undefined);
    const reply = await mount({ reference: "example.org/no:such" });
    expect(reply).toMatchObject({ status: 502, json: { code: "manifest_not_found" } });
    expect([await list(), rig.mounting.open]).toEqual([{ mounts: [] }, 0]);
  });

  test("by a door that the daemon has not is refused", async () => {
    const reply = await mount({ door: "fanotify" });
    expect(reply).toMatchObject({ status: 409, json: { code: "door_closed" } });
    expect(await mount({ door: "window" })).toMatchObject({ status: 400, json: { field: "door" } });
    expect(await list()).toEqual({ mounts: [] });
  });

  test("of an image that is mounted already is shared", async () => {
    await mount();
    rig.mounting.before = (order) => {
      if (order.kind === "mount") throw syscallFault("EEXIST");
    };
    const second = await mount({ mountPoint: "/mnt/b" });
    expect(second).toMatchObject({ status: 200, json: { sharedWith: "/mnt/a" } });
    expect(await list()).toMatchObject({
      mounts: [{ mountPoint: "/mnt/a" }, { mountPoint: "/mnt/b" }],
    });
  });

  test("that the kernel refuses tells the cause that the daemon knows", async () => {
    rig.mounting.before = (order) => {
      if (order.kind !== "mount") return;
      rig.failFill(order.image.fsid, "it is down");
      throw syscallFault("ENOBUFS");
    };
    expect(await mount()).toMatchObject({ status: 502, json: { code: "registry_unreachable" } });
    rig.mounting.before = (order) => {
      if (order.kind === "mount") throw syscallFault("EINVAL");
    };
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(await mount()).toMatchObject({ status: 500, json: { code: "mount_failed" } });
    expect(await list()).toEqual({ mounts: [] });
  });

  test("whose device fails is taken away again", async () => {
    rig.mounting.before = (order) => {
      if (order.kind === "mount") rig.failFill(order.image.devices[0] ?? "", "it is down");
    };
    expect(await mount()).toMatchObject({ status: 502 });
    expect(rig.mounting.entries).toEqual([]);
  });
});

describe("while it is being made", () => {
  test("it is listed, nobody else takes its place, and whoever asks for the same shares it", async () => {
    rig.names.publish(TAG, "stall");
    const first = mount();
    await rig.names.until(() => rig.names.resolved.length === 1);
    expect(await list()).toMatchObject({
      mounts: [{ mountPoint: "/mnt/a", state: "preparing", reference: TAG }],
    });
    expect(await mount({ reference: `${TAG}2` })).toMatchObject({ status: 400 });
    const same = mount();
    rig.names.publish(TAG, rig.names.image());
    rig.names.release();
    const [one, other] = await Promise.all([first, same]);
    expect([one.status, other.json]).toEqual([200, one.json]);
    expect(rig.mounting.entries).toHaveLength(1);
  });

  test.each([true, false])(
    "a client that goes away takes it along only when it asks so: %s",
    async (cancelWithClient) => {
      rig.names.publish(TAG, "stall");
      const { socketPath } = rig;
      const asking = request({ socketPath, method: "POST", path: "/v1/mounts" });
      asking.on("error", () => undefined);
      asking.end(JSON.stringify({ reference: TAG, mountPoint: "/mnt/a", cancelWithClient }));
      await rig.names.until(() => rig.names.resolved.length === 1);
      asking.destroy();
      if (cancelWithClient) {
        await rig.names.until(() => rig.mounts.pending.length === 0);
        expect([await list(), rig.mounting.open]).toEqual([{ mounts: [] }, 0]);
        return;
      }
      rig.names.publish(TAG, rig.names.image());
      rig.names.release();
      await rig.names.until(() => rig.mounts.pending.length === 0);
      expect(await list()).toMatchObject({ mounts: [{ mountPoint: "/mnt/a", state: "mounted" }] });
    },
  );

  test("it can be given up", async () => {
    let isWaiting = false;
    rig.mounting.before = async (order) => {
      isWaiting = order.kind === "mount";
      if (isWaiting) await new Promise(() => undefined);
    };
    const mounting = mount();
    await rig.names.until(() => isWaiting);
    expect(await umount("/mnt/a")).toMatchObject({ status: 200 });
    expect(await mounting).toMatchObject({ status: 500, json: { code: "cancelled" } });
    expect([await list(), rig.mounting.open]).toEqual([{ mounts: [] }, 0]);
  });
});

describe("a whole image", () => {
  test("is listed with how far it is, and mounted from its files", async () => {
    let goOn: () => void = () => undefined;
    let told: (done: number, total: number) => void = () => undefined;
    const release = vi.fn<(mountWithinMs: number) => void>();
    const prepare: FileMounts["prepare"] = async (_, { onProgress, isWhole }) => {
      expect(isWhole).toBe(true);
      told = onProgress ?? told;
      await new Promise<void>((resolve) => {
        goOn = resolve;
      });
      return { primary: "/c/p", devices: ["/c/d"], release };
    };
    const way = { kind: "full", files: { prepare }, isWhole: true } as const;
    await start({ pick: () => Promise.resolve(way) });
    const mounting = mount({ door: "full" });
    await rig.names.until(() => {
      told(10, 100);
      return rig.mounts.pending[0]?.progress !== undefined;
    });
    expect(await list()).toMatchObject({
      mounts: [{ state: "preparing", door: "full", progress: { doneBytes: 10, totalBytes: 100 } }],
    });
    // Until it is mounted its files are held.
    rig.mounting.before = (order) => {
      if (order.kind === "mount-files") expect(release).not.toHaveBeenCalled();
    };
    goOn();
    expect(await mounting).toMatchObject({ status: 200, json: { door: "full" } });
    // It is mounted: nobody has to be awaited.
    expect(release.mock.calls).toEqual([[0]]);
    expect(rig.mounting.orders.at(-1)).toEqual({
      kind: "mount-files",
      image: { primary: "/c/p", devices: ["/c/d"] },
      target: "/mnt/a",
      mayLoop: true,
    });
  });
});

describe("an end", () => {
  test("of what is no mount of ours is refused", async () => {
    rig.mounting.entries.push(...parseMountinfo("40 35 8:2 / /mnt/disk rw - ext4 /dev/sda2 rw"));
    for (const [path, words] of [
      ["/mnt/disk", "/mnt/disk is no mount of erofsd: ext4 is mounted there"],
      ["/nowhere", "/nowhere is no mount of erofsd: nothing is mounted there"],
    ] as const) {
      const reply = await umount(path);
      expect(reply).toMatchObject({ status: 404, json: { code: "mount_unknown", message: words } });
    }
    expect(rig.mounting.orders).toEqual([]);
  });

  test("of one that is in use is refused, unless it may be late", async () => {
    await mount();
    rig.mounting.before = (order) => {
      if (order.kind === "unmount" && !order.lazy) throw syscallFault("EBUSY");
    };
    expect(await umount("/mnt/a")).toMatchObject({ status: 409, json: { code: "mount_busy" } });
    expect(await umount("/mnt/a", "?lazy=maybe")).toMatchObject({ status: 400 });
    expect(await umount("/mnt/a", "?lazy=true")).toMatchObject({ status: 200 });
  });
});
