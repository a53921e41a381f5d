// SPDX-License-Identifier: Apache-2.0
// What the adapter keeps for the next daemon (at the supervisor, with a keeper, on disk), and how
// it leaves.

import { mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { parseState } from "../../../src/nydusd/state-format.ts";
import { turns } from "../../support/turns.ts";
import type { Answered } from "./api-client.ts";
import { Rig } from "./scripted-rooms.ts";

let rig: Rig;
beforeEach(async () => {
  rig = await Rig.make();
});

const sendFd = (): Promise<Answered> => rig.ask("PUT", "/api/v1/daemon/fuse/sendfd");

async function settled(): Promise<void> {
  for (let left = 50; left > 0; left -= 1) await turns();
}

describe("exit", () => {
  test("is answered when the reads taken are answered", async () => {
    await rig.begin(rig.supervised);
    let finish: () => void = () => undefined;
    rig.service.quiesced = new Promise((resolve) => {
      finish = resolve;
    });
    let isAnswered = false;
    const exiting = rig.ask("PUT", "/api/v1/daemon/exit").then((answered) => {
      isAnswered = true;
      return answered;
    });
    await settled();
    expect(isAnswered).toBe(false);
    finish();
    expect((await exiting).status).toBe(204);
  });

  test("does not wait for ever for a registry that is gone", async () => {
    await rig.begin(rig.supervised);
    rig.service.quiesced = new Promise(() => undefined);
    const exiting = rig.ask("PUT", "/api/v1/daemon/exit");
    await rig.clock.timerSet((delayMs) => delayMs === 5000);
    await rig.clock.advance(5000);
    expect((await exiting).status).toBe(204);
  });
});

describe("sendfd", () => {
  test("gives the supervisor the images and the device", async () => {
    await rig.begin(rig.supervised);
    await rig.put("x1");
    expect((await sendFd()).status).toBe(204);
    expect(rig.supervisor.fd).toBe(30);
    expect(parseState(rig.supervisor.state).images).toEqual([rig.body("x1")]);
  });

  test("knocks at least, when there is no device yet: the supervisor waits for it", async () => {
    await rig.begin([...rig.supervised, "--upgrade"]);
    const { connections } = rig.supervisor;
    expect((await sendFd()).status).toBe(204);
    expect(rig.supervisor.connections).toBe(connections + 1);
  });

  test("tries more than once before it gives up", async () => {
    await rig.begin(rig.supervised);
    rig.supervisor.isListening = false;
    const sending = sendFd();
    setTimeout(() => (rig.supervisor.isListening = true), 300);
    expect((await sending).status).toBe(204);
  });

  test("without a supervisor is an error", async () => {
    await rig.begin();
    expect((await sendFd()).status).toBe(500);
  });
});

describe("without a supervisor", () => {
  test("a keeper gets the device and is told what is open", async () => {
    await rig.begin();
    await settled();
    expect(rig.keeper.started).toBe(30);
    rig.service.objectsChange(3);
    expect(rig.keeper.told).toEqual([0, 3]);
    await rig.adapter?.stop();
    expect(rig.keeper.said).toEqual(["bye"]);
    expect(rig.service.calls.at(-1)).toBe("stop");
  });

  test("a daemon that died is followed through the keeper and the journal", async () => {
    await rig.begin();
    await rig.put("x1");
    await rig.adapter?.close();
    rig = rig.again();
    rig.service.isBusy = true;
    rig.keeper.kept = 50;
    await rig.begin();
    expect(await rig.state()).toBe("RUNNING");
    expect(rig.service.calls).toEqual(["openDevice", "adoptDevice 50", "bind x1", "start"]);
  });

  test("a device in other hands is an error", async () => {
    rig.service.isBusy = true;
    await expect(rig.make().begin()).rejects.toThrow(/in use by another daemon/);
  });
});

describe("the end", () => {
  test("with a supervisor and images mounted leaves what waits for the next daemon", async () => {
    await rig.begin(rig.supervised);
    rig.service.openObjects = 2;
    await rig.adapter?.stop();
    expect(rig.service.calls.at(-1)).toBe("quiesce");
  });

  test("by a device that fails is a crash: status 1, and the socket's file stays", async () => {
    await rig.begin(rig.supervised);
    rig.service.onFatal(new Error("read: EIO"));
    expect(rig.left).toEqual([1]);
    expect((await stat(rig.apiSocket)).isSocket()).toBe(true);
  });
});

describe("the journal", () => {
  const path = () => join(rig.root, "cache/state/nydusd-images.json");

  test("has a bind before it is answered, and is for its owner alone", async () => {
    await rig.begin();
    await rig.put("x1");
    expect(JSON.parse(await readFile(path(), "utf8"))).toMatchObject({
      version: 1,
      images: [{ id: "x1" }],
    });
    expect((await stat(path())).mode & 0o777).toBe(0o600);
    await rig.ask("DELETE", "/api/v2/blobs?domain_id=x1");
    expect(JSON.parse(await readFile(path(), "utf8"))).toMatchObject({ images: [] });
  });

  test("that is damaged is set aside, with a warning", async () => {
    await mkdir(join(rig.root, "cache/state"), { recursive: true });
    await writeFile(path(), '{"version":1,"serial":');
    await rig.begin();
    expect(await rig.state()).toBe("RUNNING");
    expect(rig.log.messages("warn")).toContain(
      "the journal of images is damaged and was set aside",
    );
    expect(await readFile(`${path()}.damaged`, "utf8")).toContain("serial");
  });

  test("that cannot be written does not keep an image from being served", async () => {
    await rig.begin();
    await rm(join(rig.root, "cache"), { recursive: true });
    await writeFile(join(rig.root, "cache"), "no directory");
    expect((await rig.put("x1")).status).toBe(204);
    expect(rig.log.messages("error")[0]).toMatch(/the journal cannot be written/);
  });
});
