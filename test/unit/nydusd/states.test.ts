// SPDX-License-Identifier: Apache-2.0
// Who has the device, what state is told, and what may be asked in it.

import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { Json } from "../../../src/nydusd/bind-fields.ts";
import { fsidOf } from "../../../src/nydusd/fsid.ts";
import { formatState } from "../../../src/nydusd/state-format.ts";
import { turns } from "../../support/turns.ts";
import { nydusdState } from "./nydusd-state.ts";
import { type Answered, leaveStale, messageOf } from "./api-client.ts";
import { Rig } from "./scripted-rooms.ts";

let rig: Rig;
beforeEach(async () => {
  rig = await Rig.make();
});

const takeover = (on = rig): Promise<Answered> => on.ask("PUT", "/api/v1/daemon/fuse/takeover");
const start = (on = rig): Promise<Answered> => on.ask("PUT", "/api/v1/daemon/start");
const sendFd = (on = rig): Promise<Answered> => on.ask("PUT", "/api/v1/daemon/fuse/sendfd");

/** A daemon that is there because another died, whose device and state the supervisor has. */
async function successor(images: readonly Json[], serial = 0): Promise<Rig> {
  rig.service.isBusy = true;
  rig.supervisor.fd = 40;
  rig.supervisor.state = formatState({ serial, threads: 4, fscacheDir: "/c", images });
  return rig.begin(rig.supervised);
}

async function settled(): Promise<void> {
  for (let left = 50; left > 0; left -= 1) await turns();
}

/** Files are read on the way, which takes real time. */
async function untilRunning(on = rig): Promise<void> {
  for (let left = 200; left > 0 && (await on.state()) !== "RUNNING"; left -= 1) await sleep(5);
  expect(await on.state()).toBe("RUNNING");
}

describe("a daemon that finds the device free", () => {
  test("serves by itself", async () => {
    await rig.begin(rig.supervised);
    expect(await rig.state()).toBe("RUNNING");
    expect(rig.service.calls).toEqual(["openDevice", "start"]);
    expect(rig.supervisor.connections).toBe(0);
  });

  test("tells who it is", async () => {
    await rig.begin(rig.supervised);
    const { body } = await rig.ask("GET", "/api/v2/daemon");
    expect(body).toMatchObject({
      id: "d1",
      supervisor: join(rig.root, "supervisor.sock"),
      backend_collection: null,
    });
  });

  test("refuses takeover and start in nydusd's words", async () => {
    await rig.begin(rig.supervised);
    const [refusedTakeover, refusedStart] = [await takeover(), await start()];
    expect([refusedTakeover.status, refusedStart.status]).toEqual([400, 400]);
    expect(messageOf(refusedTakeover)).toBe('Upgrade(DaemonAbnormal(UnexpectedEvent("Takeover")))');
    expect(messageOf(refusedStart)).toBe('Configure(DaemonAbnormal(UnexpectedEvent("Start")))');
  });

  test("takes a bind that comes before its rooms are there, and is INIT until then", async () => {
    let arrive: () => void = () => undefined;
    const arrived = new Promise<void>((resolve) => {
      arrive = resolve;
    });
    rig.load = () => arrived.then(() => rig.module);
    const beginning = rig.make().begin();
    await settled();
    const binding = rig.put("x1");
    expect(await rig.state()).toBe("INIT");
    arrive();
    await beginning;
    expect((await binding).status).toBe(204);
    expect(rig.service.calls).toEqual(["openDevice", "start", "bind x1"]);
  });

  test("ends when it cannot have its rooms, and leaves no socket", async () => {
    rig.load = () => Promise.reject(new Error("no addon"));
    await expect(rig.make().begin()).rejects.toThrow("no addon");
    await expect(stat(rig.apiSocket)).rejects.toThrow(/ENOENT/);
  });
});

describe("a daemon after one that died", () => {
  test("fetches the state at once, and goes INIT, READY, RUNNING as it is asked", async () => {
    await successor([rig.body("x1"), rig.body("x2")]);
    expect(rig.supervisor.connections).toBe(1);
    expect(await rig.state()).toBe("INIT");
    expect((await start()).status).toBe(400);
    expect((await takeover()).status).toBe(204);
    expect(await rig.state()).toBe("READY");
    expect((await takeover()).status).toBe(400);
    expect((await start()).status).toBe(204);
    expect(await rig.state()).toBe("RUNNING");
    expect(rig.service.calls).toEqual([
      "openDevice",
      "adoptDevice 40",
      "bind x1",
      "bind x2",
      "start",
    ]);
    expect(rig.supervisor.connections).toBe(1);
  });

  test("reads 60 images, which nydusd could not, whatever their size", async () => {
    const ids = Array.from({ length: 60 }, (_, at) => fsidOf(String(at)));
    await successor(ids.map((id) => rig.body(id)));
    expect(rig.supervisor.state.length).toBeGreaterThan(32 * 1024);
    expect((await takeover()).status).toBe(204);
    expect(rig.service.bound).toEqual(ids);
  });

  test("serves unasked when nobody asks, and then says yes to what is asked late", async () => {
    await successor([rig.body("x1")]);
    await rig.clock.advance(2900);
    expect(await rig.state()).toBe("INIT");
    await rig.clock.advance(200);
    await untilRunning();
    expect(rig.service.bound).toEqual(["x1"]);
    expect([(await takeover()).status, (await start()).status]).toEqual([204, 204]);
    expect(rig.service.calls.filter((call) => call === "start")).toHaveLength(1);
  });

  test("starts unasked when the takeover came and the start does not", async () => {
    await successor([]);
    await takeover();
    await rig.clock.advance(3100);
    await untilRunning();
  });

  test("leaves no timer behind when it was asked", async () => {
    await successor([]);
    await takeover();
    await start();
    expect(rig.clock.pendingCount).toBe(0);
  });

  test("asks the supervisor again at takeover when it did not listen at first", async () => {
    await leaveStale(rig.apiSocket);
    rig.supervisor.isListening = false;
    await successor([rig.body("x1")]);
    expect(await rig.state()).toBe("INIT");
    rig.supervisor.isListening = true;
    expect((await takeover()).status).toBe(204);
    expect(rig.service.bound).toEqual(["x1"]);
  });

  test("says why a takeover is impossible, and may be asked again", async () => {
    await leaveStale(rig.apiSocket);
    rig.supervisor.isListening = false;
    await successor([]);
    const refused = await takeover();
    expect(refused.status).toBe(500);
    expect(messageOf(refused)).toMatch(/^Upgrade\(DaemonAbnormal\(UpgradeManager\("connect: /);
    expect(await rig.state()).toBe("INIT");
  });

  test("takes the device when it comes free meanwhile", async () => {
    await leaveStale(rig.apiSocket);
    rig.supervisor.isListening = false;
    await successor([]);
    await rig.clock.advance(1000);
    await settled();
    rig.service.isBusy = false;
    await rig.clock.advance(1000);
    await untilRunning();
  });

  test("ends when neither a state nor a dead daemon's socket is there: another one serves", async () => {
    rig.service.isBusy = true;
    rig.supervisor.isListening = false;
    await expect(rig.make(rig.supervised).begin()).rejects.toThrow(/in use by another daemon/);
  });

  test("goes on with the journal when the state is damaged", async () => {
    const before = await rig.begin(rig.supervised);
    await before.put("x1");
    await before.adapter?.close();
    rig = rig.again();
    rig.service.isBusy = true;
    rig.supervisor.fd = 40;
    rig.supervisor.state = Buffer.from("nonsense");
    await rig.begin(rig.supervised);
    expect((await takeover()).status).toBe(204);
    expect(rig.service.bound).toEqual(["x1"]);
    expect(rig.log.messages("error")[0]).toMatch(/state cannot be used.*8 bytes/);
  });

  test("knows an image that was bound after the last state was sent, and not one removed then", async () => {
    await rig.begin(rig.supervised);
    await rig.put("old");
    await sendFd();
    await rig.put("new");
    await rig.ask("DELETE", "/api/v2/blobs?domain_id=old");
    const saved = rig.supervisor.state;
    await rig.adapter?.close();
    rig = rig.again();
    rig.service.isBusy = true;
    Object.assign(rig.supervisor, { fd: 40, state: saved });
    await rig.begin(rig.supervised);
    await takeover();
    expect(rig.service.bound).toEqual(["new"]);
  });

  test("leaves out an image whose bootstrap is gone, and serves the others", async () => {
    const gone = rig.body("gone", (config) => (config["metadata_path"] = "/nowhere"));
    const refusing = rig.service.bind.bind(rig.service);
    rig.service.bind = (image) =>
      image.fsid === "gone" ? Promise.reject(new Error("no such file")) : refusing(image);
    await successor([gone, rig.body("x1")]);
    expect((await takeover()).status).toBe(204);
    expect(rig.service.bound).toEqual(["x1"]);
    await start();
    const journal = await readFile(join(rig.root, "cache/state/nydusd-images.json"), "utf8");
    expect(journal).not.toContain("gone");
  });

  test("of nydusd's serves nydusd's images", async () => {
    rig.service.isBusy = true;
    rig.supervisor.fd = 40;
    rig.supervisor.state = nydusdState([rig.body("x1"), rig.body("x2")]);
    await rig.begin(rig.supervised);
    await takeover();
    await start();
    expect(rig.service.bound).toEqual(["x1", "x2"]);
    // And after a crash before the next saving: still nydusd's state, but the journal goes on from it.
    await rig.put("x3");
    await rig.adapter?.close();
    const { state } = rig.supervisor;
    rig = rig.again();
    rig.service.isBusy = true;
    Object.assign(rig.supervisor, { fd: 41, state });
    await rig.begin(rig.supervised);
    await takeover();
    expect(rig.service.bound).toEqual(["x1", "x2", "x3"]);
  });
});

describe("a daemon that follows another in an upgrade", () => {
  test("does not touch the device before it is asked, and never serves while the old one answers", async () => {
    const old = createServer();
    await new Promise<void>((resolve) => {
      old.listen(join(rig.root, "socket/api1.sock"), resolve);
    });
    onTestFinished(() => void old.close());
    rig.supervisor.fd = 40;
    rig.supervisor.state = formatState({ serial: 0, threads: 4, fscacheDir: "", images: [] });
    await rig.begin([...rig.supervised, "--upgrade"]);
    await rig.clock.advance(60_000);
    await settled();
    expect([await rig.state(), rig.service.calls]).toEqual(["INIT", []]);
    await takeover();
    await rig.clock.advance(6000);
    await settled();
    expect([await rig.state(), rig.service.calls]).toEqual(["READY", ["adoptDevice 40"]]);
    await start();
    expect(await rig.state()).toBe("RUNNING");
  });

  test("starts by itself when the old one has gone and nobody says so", async () => {
    rig.supervisor.fd = 40;
    rig.supervisor.state = formatState({ serial: 0, threads: 4, fscacheDir: "", images: [] });
    await rig.begin([...rig.supervised, "--upgrade"]);
    await takeover();
    await rig.clock.advance(5100);
    await untilRunning();
  });

  test("serves what the old one bound between takeover and exit", async () => {
    await rig.begin(rig.supervised);
    await rig.put("x1");
    await sendFd();
    const next = rig.again();
    Object.assign(next.supervisor, { fd: 41, state: rig.supervisor.state });
    Object.defineProperty(next, "apiSocket", { value: join(rig.root, "socket/api1.sock") });
    await next.begin([...next.supervised, "--upgrade"]);
    await takeover(next);
    await rig.put("x2");
    expect((await rig.ask("PUT", "/api/v1/daemon/exit")).status).toBe(204);
    expect(rig.service.calls.at(-1)).toBe("quiesce");
    await settled();
    expect(rig.left).toEqual([0]);
    await start(next);
    expect(next.service.bound).toEqual(["x1", "x2"]);
  });
});
