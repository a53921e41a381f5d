// SPDX-License-Identifier: Apache-2.0
// erofsd-nydusd in nydusd's place: the recorded talk of a snapshotter, and what the snapshotter
// relies on without saying so. The real program, the kernel's cache, images over HTTP.

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fsidOf } from "../../src/nydusd/fsid.ts";
import { NYDUSD, Nydusd } from "./nydusd-process.ts";
import { Replay } from "./nydusd-replay.ts";
import { bind, failover, findDaemon, save, watched, withSite } from "./nydusd-steps.ts";
import { SLOWNESS, beyondSmoke, fullTest } from "./support/settings.ts";

const timeout = 180_000 * SLOWNESS;
const MANY = 60;
const SUPERVISED = { supervised: true };
const ALONE = { supervised: false };

beyondSmoke("in nydusd's place", () => {
  fullTest(
    "the recorded life under policy failover: start, kill, restart, two upgrades",
    { timeout },
    () =>
      withSite(async (site) => {
        const replay = new Replay(site);
        try {
          site.registry.login = "alice:one";
          const compared = await replay.play("policy=failover", { mounts: true });
          deepStrictEqual(replay.problems, []);
          ok(compared > 35, `${compared} answers compared`);
        } finally {
          await replay.endAll();
        }
      }),
  );

  fullTest("the recorded life under policy restart", { timeout }, () =>
    withSite(async (site) => {
      const replay = new Replay(site);
      try {
        await replay.play("policy=restart", { mounts: true });
        deepStrictEqual(replay.problems, []);
        ok(existsSync(join(site.root, "logs/d1/nydusd.log")));
      } finally {
        await replay.endAll();
      }
    }),
  );

  for (const { scenario, domain, mounts } of [
    { scenario: "policy=failover, errors and removal", mounts: false },
    {
      scenario: "policy=failover, domain_id=shared in the template",
      domain: "shared",
      mounts: true,
    },
    { scenario: "policy=restart, cull of files in use", mounts: true },
  ]) {
    fullTest(`recorded: ${scenario}`, { timeout }, () =>
      withSite(async (site) => {
        const daemon = await site.start(SUPERVISED);
        const replay = new Replay(site, daemon);
        try {
          await replay.bind(site.body("2", domain === undefined ? {} : { domain_id: domain }));
          if (domain !== undefined) {
            // Removed by hand in the recording, with a name of its own.
            const id = "32e72ef854d48d4850f6d677b5a085dc25cd69250129636ae0cd8322f7722201";
            await replay.bind(site.body("2", { domain_id: domain, id }));
          }
          if (mounts) await replay.mount(domain);
          if (mounts) await site.expectTree(replay.target);
          await replay.play(scenario, { mounts: false });
          deepStrictEqual(replay.problems, [], daemon.output);
        } finally {
          await replay.endAll();
        }
      }),
    );
  }

  fullTest(
    `killed with ${MANY} images bound, of which one never reached the supervisor`,
    { timeout },
    () =>
      withSite(async (site) => {
        const daemons = [await site.start(SUPERVISED)];
        await watched(daemons, async () => {
          const [daemon] = daemons;
          if (daemon === undefined) return;
          for (let id = 10; id < 10 + MANY; id += 1) {
            await site.snapshot(String(id), "lz4-sha256");
            await bind(daemon, site, String(id));
          }
          const target = await site.mount(fsidOf("10"));
          const bytes = await save(daemon, site);
          ok(bytes > 32 * 1024, `a state of ${bytes} bytes`);
          await site.snapshot("99", "none-sha256");
          await bind(daemon, site, "99");
          await daemon.end("SIGKILL");
          const next = await failover(site, daemons);
          await site.expectTree(target);
          for (const id of ["11", String(9 + MANY), "99"]) {
            const other = await site.mount(fsidOf(id));
            await site.expectTree(other);
            await site.umount(other);
          }
          await site.umount(target);
          strictEqual(await next.end("SIGTERM"), 0);
        });
      }),
  );

  test(
    "killed while an image is read: the reader waits, and gets the right bytes",
    { timeout },
    () =>
      withSite(async (site) => {
        const daemons = [await site.start(SUPERVISED)];
        await watched(daemons, async () => {
          const [daemon] = daemons;
          if (daemon === undefined) return;
          await bind(daemon, site, "2");
          const target = await site.mount(fsidOf("2"));
          await save(daemon, site);
          const reader = site.expectTree(target);
          await sleep(30);
          await daemon.end("SIGKILL");
          await failover(site, daemons);
          await reader;
          await site.umount(target);
        });
      }),
  );

  fullTest("renewed credentials are used at once, and by the next daemon", { timeout }, () =>
    withSite(async (site) => {
      const daemons = [await site.start(SUPERVISED)];
      await watched(daemons, async () => {
        const [daemon] = daemons;
        if (daemon === undefined) return;
        await site.snapshot("3", "none-sha256");
        for (const id of ["2", "3"]) await bind(daemon, site, id);
        site.registry.login = "alice:two";
        const body = { registry_auth: Buffer.from("alice:two").toString("base64") };
        strictEqual((await daemon.ask("PUT", "/api/v1/config?id=%2F2", body)).status, 204);
        const target = await site.mount(fsidOf("2"));
        await site.expectTree(target);
        strictEqual(site.registry.refused, 0);
        await save(daemon, site);
        await daemon.end("SIGKILL");
        await failover(site, daemons);
        // Not read before: from the same repository, by the new daemon.
        const other = await site.mount(fsidOf("3"));
        await site.expectTree(other);
        for (const mounted of [target, other]) await site.umount(mounted);
      });
    }),
  );

  fullTest("nobody asks the new daemon for a takeover: it serves all the same", { timeout }, () =>
    withSite(async (site) => {
      const daemons = [await site.start(SUPERVISED)];
      await watched(daemons, async () => {
        const [daemon] = daemons;
        if (daemon === undefined) return;
        await bind(daemon, site, "2");
        await save(daemon, site);
        await daemon.end("SIGKILL");
        const offered = await site.supervisor.offer();
        const next = new Nydusd(site.args(SUPERVISED));
        daemons.push(next);
        await offered.done;
        await next.untilListening();
        await next.untilState("RUNNING");
        const target = await site.mount(fsidOf("2"));
        await site.expectTree(target);
        await site.umount(target);
      });
    }),
  );

  fullTest(
    "without a supervisor: killed with an image mounted, its readers go on",
    { timeout },
    () =>
      withSite(async (site) => {
        const daemons = [await site.start(ALONE)];
        await watched(daemons, async () => {
          const [daemon] = daemons;
          if (daemon === undefined) return;
          await bind(daemon, site, "2");
          const target = await site.mount(fsidOf("2"));
          await sleep(1500);
          await daemon.end("SIGKILL");
          const reader = site.expectTree(target);
          const next = await site.start(ALONE);
          daemons.push(next);
          await reader;
          await site.umount(target);
          strictEqual(await next.end("SIGTERM"), 0);
        });
      }),
  );

  fullTest(
    "answers soon after its start, and is gone soon after SIGTERM, with its socket",
    { timeout },
    () =>
      withSite(async (site) => {
        const startMs = performance.now();
        const daemon = new Nydusd(site.args(SUPERVISED));
        await watched([daemon], async () => {
          await daemon.untilListening();
          const listenMs = performance.now() - startMs;
          await daemon.untilState("RUNNING");
          const runMs = performance.now() - startMs;
          await daemon.watch();
          await sleep(200);
          const stopMs = performance.now();
          strictEqual(await daemon.end("SIGTERM"), 0);
          const goneMs = performance.now() - stopMs;
          const times = `answers ${listenMs} ms, runs ${runMs} ms, gone ${goneMs} ms`;
          console.log(`   ${times}`);
          // The snapshotter gives a socket up after 1.9 s at the earliest; for an end it waits.
          ok(listenMs < 1900 * SLOWNESS && goneMs < 5000 * SLOWNESS, times);
          ok(!existsSync(daemon.apiSocket));
          strictEqual(daemon.hangups, 1, "ends of the silent connection");
        });
      }),
  );

  fullTest("refuses what it cannot do in one line, with status 1", { timeout }, async () => {
    for (const [words, said] of [
      [["fuse", "--mountpoint", "/mnt"], 'mode "fuse" is not served'],
      [["singleton", "--apisock", "/tmp/x.sock"], "--fscache is missing"],
      [["singleton", "--nope"], "unknown flag --nope"],
    ] as const) {
      const daemon = new Nydusd(words);
      strictEqual(await daemon.end(), 1);
      await sleep(50);
      strictEqual(daemon.output.trimEnd().split("\n").length, 1, daemon.output);
      ok(daemon.output.includes(said), daemon.output);
    }
  });

  fullTest("outlives the reader of its log", { timeout }, () =>
    withSite(async (site) => {
      const args = site.args(ALONE);
      const shell = ["-c", `"$0" "$@" 2>&1 | head -n 1`, process.execPath, NYDUSD, ...args];
      const child = spawn("sh", shell, { stdio: ["ignore", "pipe", "inherit"] });
      await once(child.stdout, "data");
      await sleep(2000);
      const socket = args[args.indexOf("--apisock") + 1] ?? "";
      ok(existsSync(socket));
      const { pid } = await findDaemon(site.root);
      process.kill(pid, "SIGTERM");
      for (let left = 100; left > 0 && existsSync(socket); left -= 1) await sleep(50);
      ok(!existsSync(socket));
    }),
  );
});
