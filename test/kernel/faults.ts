// SPDX-License-Identifier: Apache-2.0
// A registry that misbehaves: whoever reads gets the right bytes or an error, within one
// deadline; the log names the cause; other mounts are served meanwhile; and once the registry is
// healed the same mount gives the right bytes, because nothing wrong was cached.

import { deepStrictEqual, match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { MIB } from "../../src/units.ts";
import { buildImage, digestOf } from "../support/oci-image.ts";
import { response } from "../support/scripted-server.ts";
import { MOUNT_FAULTS, READ_FAULTS, type ReadFault } from "./support/fault-table.ts";
import { FaultyRegistry } from "./support/faulty-registry.ts";
import { Rig, catalogue } from "./support/rig.ts";
import { type Ended, expectSameTree, run } from "./support/run.ts";
import { TIER, beyondSmoke, fullTest } from "./support/settings.ts";

const isFull = TIER === "full";
const OPEN_TIMEOUT_S = isFull ? 3 : 60;
const READ_TIMEOUT_S = isFull ? 4 : 30;
// Two tries that are not answered take longer than a deadline: what ends them is the deadline.
const HEADERS_TIMEOUT_S = isFull ? 2 : 25;
const CONFIG = `[limits]
open_timeout = "${OPEN_TIMEOUT_S}s"
read_timeout = "${READ_TIMEOUT_S}s"
[registry]
connect_timeout = "${HEADERS_TIMEOUT_S}s"
headers_timeout = "${HEADERS_TIMEOUT_S}s"
[engine]
window_max = "1MiB"
`;
const SLACK = 1.5;
const timeout = isFull ? 60_000 : 900_000;
const EROFS = "application/vnd.erofs";
const BROKEN = "test/broken";
const HEALTHY = "test/healthy";

beyondSmoke("a registry that misbehaves", () => {
  let rig: Rig;
  let registry: FaultyRegistry;
  let plain: Uint8Array;
  let far: string;
  const tree = catalogue.treeOf(catalogue.get("plain"));
  before(async () => {
    registry = await FaultyRegistry.start();
    plain = await readFile(catalogue.fileOf(catalogue.get("plain")));
    const healthy = await readFile(catalogue.fileOf(catalogue.get("inline")));
    registry.put(BROKEN, buildImage([{ bytes: plain, mediaType: EROFS }]));
    registry.put(HEALTHY, buildImage([{ bytes: healthy, mediaType: EROFS }]));
    far = await lastFile(plain, tree);
    rig = await Rig.beside(registry, CONFIG);
  });
  afterEach(async () => {
    registry.heal();
    await rig.umountAll();
  });
  after(async () => {
    await rig.stop();
    await registry.stop();
  });

  for (const [at, fault] of READ_FAULTS.entries()) {
    if (!isFull && !fault.everywhere) continue;
    test(
      `${fault.name}: ${fault.served ? "the reader gets its bytes" : "the reader gets EIO"}`,
      { timeout },
      () => readThrough(`v${at}`, fault),
    );
  }

  async function readThrough(tag: string, fault: ReadFault): Promise<void> {
    const logged = rig.daemon.log.length;
    const target = await rig.bareMount(`${registry.host}/${BROKEN}:${tag}`);
    const neighbour = isFull
      ? await rig.bareMount(`${registry.host}/${HEALTHY}:${tag}`)
      : undefined;
    registry.break(BROKEN, fault);
    const reading = readStart(join(target, far));
    if (neighbour !== undefined) {
      const startMs = performance.now();
      await expectSameTree(tree, neighbour);
      const ms = performance.now() - startMs;
      ok(ms < READ_TIMEOUT_S * 1000, `the healthy mount took ${Math.round(ms)} ms`);
      await rig.umount(neighbour);
    }
    const ended = await reading;
    const limitMs = SLACK * READ_TIMEOUT_S * 1000;
    ok(ended.ms < limitMs, `the reader waited ${Math.round(ended.ms)} ms`);
    if (fault.served) {
      strictEqual(ended.status, 0, ended.stderr);
    } else {
      notStrictEqual(ended.status, 0, "the read succeeded");
      match(ended.stderr, /Input\/output error/);
    }
    await expectLogged(logged, fault);
    registry.heal();
    await untilReadable(join(target, far));
    await expectSameTree(tree, target);
    await rig.umount(target);
    await rig.untilIdle();
    const again = await rig.bareMount(`${registry.host}/${BROKEN}:${tag}`);
    await expectSameTree(tree, again);
    await rig.umount(again);
  }

  /** The cause is named, and nothing else is blamed. */
  async function expectLogged(from: number, fault: { code: string; says: RegExp }): Promise<void> {
    await rig.untilLogged((line) => line["code"] === fault.code && fault.says.test(line.msg), from);
    const lines = rig.daemon.log
      .slice(from)
      .filter((line) => line.level >= 40 && line["code"] !== undefined);
    const isRetry = (msg: string): boolean => msg.endsWith("; trying again");
    const others = lines.filter((line) => line["code"] !== fault.code && !isRetry(line.msg));
    deepStrictEqual(
      others.map((line) => `${String(line["code"])}: ${line.msg}`),
      [],
    );
  }

  for (const fault of MOUNT_FAULTS) {
    fullTest(
      `${fault.name}: the mount fails, and mounts once it is healed`,
      {
        timeout,
      },
      async () => {
        const reference = `${registry.host}/${BROKEN}:mount-${fault.name.replaceAll(/\W+/g, "-")}`;
        const logged = rig.daemon.log.length;
        registry.break(BROKEN, fault);
        const target = await rig.directory();
        const ended = await rig.tryBareMount(reference, target);
        notStrictEqual(ended.status, 0);
        ok(ended.ms < SLACK * OPEN_TIMEOUT_S * 1000, `mount(8) took ${Math.round(ended.ms)} ms`);
        await expectLogged(logged, fault);
        registry.heal();
        await untilMounts(reference, target);
        await expectSameTree(tree, target);
        await rig.umount(target);
        await rig.untilIdle();
      },
    );
  }

  fullTest(
    "an image that cannot be served is refused with what is wrong with it",
    {
      timeout,
    },
    async () => {
      const noise = Buffer.alloc(65_536, "no file system at all");
      const bootstrap = await readFile(catalogue.fileOf(catalogue.get("device-named")));
      const cases = [
        {
          repository: "test/garbage",
          layer: { bytes: noise, mediaType: EROFS },
          code: "image_invalid",
          says: /is not an EROFS image/,
        },
        {
          repository: "test/deviceless",
          layer: { bytes: bootstrap, mediaType: EROFS },
          code: "image_invalid",
          says: /its device table has 1 slots, its manifest 0 device layers/,
        },
        {
          repository: "test/tar",
          layer: { bytes: noise, mediaType: "application/vnd.oci.image.layer.v1.tar+gzip" },
          code: "image_unsupported",
          says: /a tar layer \(application\/vnd\.oci\.image\.layer\.v1\.tar\+gzip\); served are application\/vnd\.erofs/,
        },
      ];
      for (const { repository, layer, code, says } of cases) {
        registry.put(repository, buildImage([layer]));
        const logged = rig.daemon.log.length;
        const ended = await rig.tryBareMount(
          `${registry.host}/${repository}:v1`,
          await rig.directory(),
        );
        notStrictEqual(ended.status, 0, repository);
        await expectLogged(logged, { code, says });
      }
    },
  );

  fullTest(
    "a small blob that is not what its digest says is never served",
    {
      timeout,
    },
    async () => {
      // Small enough for one fetch: then all of it is checked before any of it is cached.
      const { layers } = catalogue.get("equal-a");
      ok((layers[0]?.size ?? MIB) < MIB);
      const bytes = new Uint8Array(await readFile(catalogue.fileOf(catalogue.get("equal-a"))));
      const damaged = Uint8Array.from(bytes);
      damaged[300_000] = (damaged[300_000] ?? 0) ^ 1;
      registry.put("test/damaged", buildImage([{ bytes, mediaType: EROFS }]));
      registry.corrupt(digestOf(bytes), damaged);
      const reference = `${registry.host}/test/damaged:v1`;
      const logged = rig.daemon.log.length;
      const target = await rig.directory();
      notStrictEqual((await rig.tryBareMount(reference, target)).status, 0);
      await expectLogged(logged, { code: "digest_mismatch", says: /content is sha256:/ });
      registry.corrupt(digestOf(bytes), bytes);
      await untilMounts(reference, target);
      await expectSameTree(catalogue.treeOf(catalogue.get("equal-a")), target);
      await rig.umount(target);
    },
  );

  fullTest(
    "a registry that asks for credentials stops a mount with its name and the repository",
    {
      timeout,
    },
    async () => {
      registry.break(BROKEN, {
        of: "manifest",
        answer: ({ socket }) => socket.write(response(401)),
      });
      const told = await rig.tryMount(`${registry.host}/${BROKEN}:secret`, await rig.directory());
      registry.heal();
      strictEqual(told.status, 4, told.stderr);
      match(told.stderr, /refuses access to test\/broken \(HTTP 401\)/);
    },
  );

  // A failure is remembered for a second, as the kernel asks again at once.
  async function untilMounts(reference: string, target: string): Promise<void> {
    for (const endMs = performance.now() + SLACK * OPEN_TIMEOUT_S * 1000; ; ) {
      if ((await rig.tryBareMount(reference, target)).status === 0) return;
      ok(performance.now() < endMs, `the healed image does not mount\n${rig.logText()}`);
    }
  }
});

async function untilReadable(path: string): Promise<void> {
  for (const endMs = performance.now() + SLACK * READ_TIMEOUT_S * 1000; ; ) {
    const ended = await readStart(path);
    if (ended.status === 0) return;
    ok(performance.now() < endMs, `the healed file cannot be read: ${ended.stderr}`);
  }
}

function readStart(path: string): Promise<Ended> {
  return run("dd", [`if=${path}`, "of=/dev/null", "bs=4096", "count=1", "status=none"]);
}

/** The file that begins last: nothing of it comes with what a mount reads. */
async function lastFile(image: Uint8Array, tree: string): Promise<string> {
  let last = { name: "", offset: 0 };
  for (const name of ["odd-end", "mebibyte", "text"]) {
    const content = await readFile(join(tree, name));
    const offset = Buffer.from(image).indexOf(content.subarray(0, 4096));
    if (offset > last.offset) last = { name, offset };
  }
  ok(last.offset > 4 * MIB, "every file begins near the metadata");
  return last.name;
}
