// SPDX-License-Identifier: Apache-2.0
// The control API of a daemon that serves: what it says of mounts that others make and end, what it
// tells as it happens, over its socket and over TCP.

import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ask } from "../../src/control/client.ts";
import { type EventData, eventData } from "../../src/control/image-schema.ts";
import { mountsAnswer } from "../../src/control/mount-schema.ts";
import { bindMount, unmount } from "../../src/kernel/mount.ts";
import { mkfsErofs } from "../support/mkfs.ts";
import { freePort } from "../support/port.ts";
import { tempDir } from "../support/temp-dir.ts";
import { Site, end, program } from "./support/site.ts";

const timeout = 120_000;
const TOKEN = "a-token-for-the-daemon";
let site: Site;
let reference: string;
let url: string;
let home: string;
let tokenFile: string;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "erofsd-token-"));
  tokenFile = join(home, "token");
  await writeFile(tokenFile, `${TOKEN}\n`, { mode: 0o600 });
  const address = `127.0.0.1:${await freePort()}`;
  url = `http://${address}`;
  const control = `listen = "${address}"\ntoken_file = "${tokenFile}"`;
  site = await Site.start({ control });
  const tree = join(site.home, "tree");
  await mkdir(tree);
  await writeFile(join(tree, "file"), "x".repeat(100_000));
  await mkfsErofs(join(site.home, "image.erofs"), tree);
  reference = await site.pushRaw(join(site.home, "image.erofs"), "control");
}, timeout);

afterAll(async () => {
  await site.stop();
  await rm(home, { recursive: true });
}, timeout);

const run = (...words: string[]) => end(process.execPath, [program, ...words]);
const listed = async (): Promise<string[]> => {
  const { socketPath } = site.daemon;
  const { mounts } = await ask(socketPath, {
    method: "GET",
    path: "/v1/mounts",
    answer: mountsAnswer,
  });
  return mounts.map(({ mountPoint }) => mountPoint).filter((path) => path.startsWith(site.home));
};

test(
  "a mount that somebody else makes or ends is in the next answer",
  async () => {
    const first = await site.mount(reference);
    const other = join(site.home, "other");
    await mkdir(other);
    for (let round = 0; round < 50; round += 1) {
      bindMount(first, other);
      expect(await listed()).toEqual([first, other]);
      unmount(other, { lazy: round % 2 === 0 });
      expect(await listed()).toEqual([first]);
    }
    await site.umount(first);
    expect(await listed()).toEqual([]);
  },
  timeout,
);

test(
  "mounts are told as they come and go, whoever makes them",
  async () => {
    const watch = (...more: string[]) => {
      const words = ["events", "--socket", site.daemon.socketPath, ...more];
      return end("timeout", ["-s", "INT", "15", process.execPath, program, ...words]);
    };
    const watching = watch("--json");
    const shown = watch();
    await new Promise((resolve) => setTimeout(resolve, 5000));
    const first = await site.mount(reference);
    const other = join(site.home, "told");
    await mkdir(other);
    bindMount(first, other);
    await site.until("the mount is seen", async () => (await listed()).length === 2);
    await new Promise((resolve) => setTimeout(resolve, 300));
    unmount(other, { lazy: false });
    await site.umount(first);
    const events = (await watching).stdout
      .trimEnd()
      .split("\n")
      .map((line): EventData => eventData.parse(JSON.parse(line)));
    const told = events.filter(({ type }) => type === "mounted" || type === "unmounted");
    const image = { door: "fanotify", reference };
    expect(told).toMatchObject([
      { type: "mounted", mountPoint: first, ...image },
      { type: "mounted", mountPoint: other, ...image },
      { type: "unmounted", mountPoint: other, ...image },
      { type: "unmounted", mountPoint: first, ...image },
    ]);
    expect((await shown).stdout).toContain(`mounted        ${first}: ${reference}, by fanotify\n`);
  },
  timeout,
);

test(
  "over TCP the command line needs the token, and then does all that it does",
  async () => {
    const at = ["--socket", url];
    const directory = join(site.home, "over-tcp");
    await mkdir(directory);
    const made = await run("mount", reference, directory, ...at, "--token-file", tokenFile);
    expect([made.code, made.stderr]).toEqual([0, ""]);
    const { configPath } = site.daemon;
    // The token's file as the daemon's own configuration names it.
    const shown = await run("ps", ...at, "--config", configPath, "--json");
    expect(shown.stdout).toContain(directory);
    expect((await run("umount", directory, ...at, "--token-file", tokenFile)).code).toBe(0);

    const other = join(site.home, "other-token");
    await writeFile(other, "some-other-token-of-16", { mode: 0o600 });
    const refused = await run("ps", ...at, "--token-file", other);
    expect([refused.code, refused.stdout]).toEqual([2, ""]);
    expect(refused.stderr).toMatch(/^erofsd: the daemon refuses the token: .*\nhint: .*\n$/);
    await chmod(other, 0o644);
    const open = await run("ps", ...at, "--token-file", other);
    expect([open.code, open.stderr]).toEqual([2, expect.stringContaining("mode 644")]);
    const none = await run("ps", ...at);
    expect([none.code, none.stderr]).toEqual([2, expect.stringContaining("--token-file FILE")]);
    const far = await run("ps", "--socket", "http://10.0.0.1:1", "--token-file", tokenFile);
    expect([far.code, far.stderr]).toEqual([2, expect.stringContaining("http://127.0.0.1:PORT")]);
    for (const header of [[], ["-H", "authorization: Bearer nothing-of-the-kind"]]) {
      const answer = await end("curl", ["-si", ...header, `${url}/v1/mounts`]);
      expect(answer.stdout).toMatch(/^HTTP\/1.1 401 /);
      expect(answer.stdout).toContain('"code":"token_refused"');
    }
  },
  timeout,
);

test(
  "a daemon that should listen without a token does not start",
  async () => {
    const cacheDir = join(await tempDir(), "cache");
    const listen = `listen = "127.0.0.1:${await freePort()}"`;
    const loose = join(site.home, "loose-token");
    await writeFile(loose, TOKEN, { mode: 0o640 });
    const [, , taken] = url.split(/[/:]+/);
    for (const [control, words] of [
      [listen, "control.token_file: control.listen needs one"],
      [`${listen}\ntoken_file = "${loose}"`, `token file ${loose}: it may be read by others`],
      [`${listen}\ntoken_file = "${site.home}/none"`, "it cannot be read: ENOENT"],
      [`listen = "127.0.0.1:${taken}"\ntoken_file = "${tokenFile}"`, "EADDRINUSE"],
    ] as const) {
      const socket = `socket = "${home}/s"`;
      const text = `[cache]\ndir = "${cacheDir}"\n[kernel]\ndoor = "full"\n[control]\n${socket}\n`;
      const path = join(home, "config.toml");
      await writeFile(path, text + control);
      const ended = await run("serve", "--config", path);
      expect([ended.code, ended.stderr]).toEqual([2, expect.stringContaining(words)]);
      const checked = await run("config", "check", path);
      expect(checked.code).toBe(words === "EADDRINUSE" ? 0 : 2);
    }
  },
  timeout,
);

test(
  "what is live is changed, and nothing else",
  async () => {
    const at = ["--socket", site.daemon.socketPath];
    expect((await run("config", "set", "registry.hedge_percent", "0", ...at)).code).toBe(0);
    expect((await run("config", "show", ...at)).stdout).toContain("hedge_percent = 0\n");
    const wrong = await run("config", "set", "registry.hedge_percent", "many", ...at);
    expect([wrong.code, wrong.stderr]).toEqual([
      2,
      expect.stringMatching(/^erofsd: registry.hedge_percent: .*\nhint: /),
    ]);
    const dead = await run("config", "set", "registry.connections", "3", ...at);
    expect([dead.code, dead.stderr]).toEqual([2, expect.stringContaining("restart with it")]);
  },
  timeout,
);
