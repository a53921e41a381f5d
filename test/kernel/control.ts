// SPDX-License-Identifier: Apache-2.0
// What an operator sees of a real daemon with a real mount: the commands that look, the API below
// them, and events as they happen.

import { match, ok, strictEqual } from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { configView } from "../../src/config/config-view.ts";
import { ask } from "../../src/control/client.ts";
import { cacheAnswer, imageDetail, imagesAnswer } from "../../src/control/image-schema.ts";
import { mountsAnswer } from "../../src/control/mount-schema.ts";
import { readyAnswer } from "../../src/control/schema.ts";
import type { RunningRegistry } from "../support/docker-registry.ts";
import { Rig, catalogue, startRegistry } from "./support/rig.ts";
import { erofsd, must } from "./support/run.ts";
import { PROGRAM, SLOWNESS, fullOnly } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;

fullOnly("the control API", () => {
  let registry: RunningRegistry;
  let rig: Rig;
  before(async () => {
    registry = await startRegistry();
    rig = await Rig.beside(registry);
  });
  after(async () => {
    await rig.stop();
    await registry.stop();
  });

  const plain = catalogue.get("plain");
  const look = async (...words: string[]): Promise<string> => {
    const ended = await erofsd(...words, "--socket", rig.daemon.socketPath);
    strictEqual(ended.status, 0, ended.stderr);
    return ended.stdout;
  };

  test("tells of an image from its mount to its end", { timeout }, async () => {
    const { socketPath } = rig.daemon;
    const watching = [PROGRAM, "events", "--json", "--socket", socketPath];
    const events = spawn(process.execPath, watching, { stdio: ["ignore", "pipe", "inherit"] });
    let told = "";
    events.stdout.setEncoding("utf8").on("data", (text: string) => {
      told += text;
    });
    const until = async (type: string): Promise<void> => {
      while (!told.includes(`"type":"${type}"`)) await once(events.stdout, "data");
    };
    await ask(socketPath, { method: "GET", path: "/v1/ready", answer: readyAnswer });
    // It listens when it is told of something: a refused mount will do.
    const listens = until("open-failed");
    while (!told.includes("open-failed")) {
      await rig.tryBareMount(`${registry.host}/none:none`, await rig.directory());
    }
    await listens;
    const target = await rig.mountImage(registry.host, plain);
    await until("object-opened");
    ok(told.indexOf("image-bound") < told.indexOf("object-opened"), told);
    const reference = `${registry.host}/${plain.repository}:${plain.tag}`;
    const shown = mountsAnswer.parse(JSON.parse(await look("ps", "--json")));
    strictEqual(shown.mounts.find(({ mountPoint }) => mountPoint === target)?.reference, reference);
    const one = imageDetail.parse(JSON.parse(await look("inspect", reference, "--json")));
    ok(one.open && one.cachedBytes > 0 && one.sizeBytes > 0, JSON.stringify(one));
    match(await look("images"), /^REFERENCE .*\n/);
    await must("cp", ["-r", target, await rig.directory()]);
    await rig.umount(target);
    await until("object-closed");
    events.kill("SIGINT");
    await once(events, "exit");
    strictEqual(events.exitCode, 0);
  });

  test("counts on disk what is not open, also after a restart over a dead socket", {
    timeout,
  }, async () => {
    await rig.untilIdle();
    strictEqual(await rig.daemon.stop("SIGKILL"), "SIGKILL");
    await rig.restart();
    const { socketPath } = rig.daemon;
    const { images } = await ask(socketPath, {
      method: "GET",
      path: "/v1/images",
      answer: imagesAnswer,
    });
    const [image] = images;
    ok(image !== undefined && !image.open && image.cachedBytes > 0, JSON.stringify(images));
    const cache = await ask(socketPath, { method: "GET", path: "/v1/cache", answer: cacheAnswer });
    ok(cache.files > 0 && cache.usedBytes >= image.cachedBytes, JSON.stringify(cache));
    const config = await ask(socketPath, { method: "GET", path: "/v1/config", answer: configView });
    ok(JSON.stringify(config).includes(`"socket":"${socketPath}"`));
  });
});
