// SPDX-License-Identifier: Apache-2.0
// What the command line and the control socket say of what they cannot do: one line that names what
// and where, a hint, and the documented exit status; and nothing is left half done.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as z from "zod";
import { failure } from "../../src/control/schema.ts";
import { mkfsErofs } from "../support/mkfs.ts";
import { Site, end, program } from "./support/site.ts";

const timeout = 120_000;
let site: Site;
/** An image that is mounted at `mounted`, and another one. */
let reference: string;
let other: string;
let mounted: string;

const erofsd = (...words: string[]) => end(process.execPath, [program, ...words]);
const asked = (...words: string[]) => erofsd(...words, "--socket", site.daemon.socketPath);
const idOf = (text: string) => z.object({ id: z.string() }).parse(JSON.parse(text)).id;

beforeAll(async () => {
  site = await Site.start();
  const push = async (name: string): Promise<string> => {
    const tree = join(site.home, `tree-${name}`);
    await mkdir(tree);
    await writeFile(join(tree, "file"), name.repeat(4_000_000));
    await mkfsErofs(join(site.home, `${name}.erofs`), tree, []);
    return await site.pushRaw(join(site.home, `${name}.erofs`), name);
  };
  reference = await push("one");
  other = await push("two");
  mounted = await site.mount(reference);
  await mkdir(join(site.home, "free"));
  await writeFile(join(site.home, "afile"), "no directory, no trace");
}, timeout);

afterAll(() => site.stop(), timeout);

/** `%h` the home, `%r` a reference, `%m` where it is mounted. */
const filled = (text: string): string =>
  text
    .replaceAll("%h", () => site.home)
    .replaceAll("%r", () => reference)
    .replaceAll("%m", () => mounted);

describe("on the command line", () => {
  test.each<[words: string, status: number, message: string, hint: string]>([
    ["mount %r %h/none", 2, "%h/none does not exist", "take a directory"],
    ["mount %r %h/afile", 2, "%h/afile is no directory", "take a directory"],
    ["mount %r %m", 2, "%m is in use: erofs is mounted there", "take a directory"],
    ["mount %r", 2, "got 1, need at least 2", "--help"],
    ["mount h/UPPER:t %h/free", 2, '"h/UPPER:t" is not an image reference', "write host"],
    ["mount 127.0.0.1:1/r:t %h/free", 4, "registry 127.0.0.1:1 cannot be reached", "network"],
    ["mount %r-absent %h/free", 4, "has no one-absent in raw", "check the repository"],
    ["mount %r %h/free --door window", 2, "door", "--help"],
    ["umount %h/free", 2, "%h/free is no mount of erofsd", "erofsd ps"],
    ["rmi %r", 2, '"%r" is in use: mounted at %m', "unmount it"],
    ["rmi nothing", 5, 'no image is known as "nothing"', "erofsd images"],
    ["image inspect nothing", 5, 'no image is known as "nothing"', "erofsd images"],
    ["prefetch %r --glob /none/*", 2, 'no file matches "/none/*"', "quote globs"],
    ["prefetch %r --limit-rate fast", 2, "--limit-rate fast", "--help"],
    ["prefetch %r --flights 9", 2, "--flights: 1 to 8", "--help"],
    ["prefetch %r --all --trace %h/afile", 2, "--all, and some files", "--help"],
    ["prefetch cancel none", 2, 'there is no prefetch "none"', "prefetch ls"],
    ["prefetch %r --trace %h/afile", 5, "%h/afile", "erofsd trace record"],
    ["prefetch %r --trace %h/none", 2, "%h/none cannot be read (ENOENT)", "--help"],
    ["report %m -o %h/none/page", 3, "ENOENT (2), %h/none/page", "errno"],
    ["cache prune", 2, "say what: --image", "--help"],
    ["cache prune --image nothing", 5, 'no image is known as "nothing"', "erofsd images"],
    ["config set log.level loud", 2, "log.level: ", "correct the field"],
    ["config set no.such 1", 2, "no.such: unknown key", "correct the field"],
    ["monut %r %h/free", 2, 'there is no command "monut", did you mean "mount"?', "--help"],
    ["trace recrod", 2, 'there is no command "trace recrod", did you mean "trace', "--help"],
    ["images more", 2, "Unknown argument: more", "--help"],
  ])(
    "%s",
    async (words, status, message, hint) => {
      const ended = await asked(...filled(words).split(" "));
      expect([ended.code, ended.stdout]).toEqual([status, ""]);
      const [line = "", hinted = "", ...more] = ended.stderr.split("\n");
      expect([line.startsWith("erofsd: "), hinted.startsWith("hint: "), more]).toEqual([
        true,
        true,
        [""],
      ]);
      expect(line).toContain(filled(message));
      expect(hinted).toContain(hint);
      expect(await readdir(join(site.home, "free"))).toEqual([]);
    },
    timeout,
  );

  test(
    "a prefetch that is under way already is joined",
    async () => {
      const words = ["prefetch", other, "--limit-rate", "64KiB", "--detach", "--json"];
      const [first, second] = [await asked(...words), await asked(...words)];
      expect([first.code, second.code]).toEqual([0, 0]);
      expect(idOf(second.stdout)).toBe(idOf(first.stdout));
      const removed = await asked("rmi", other);
      expect([removed.code, removed.stderr]).toEqual([
        2,
        expect.stringContaining("it is being prefetched"),
      ]);
      expect((await asked("prefetch", "cancel", idOf(first.stdout))).code).toBe(0);
    },
    timeout,
  );

  test(
    "a trace counts for its own image alone",
    async () => {
      const trace = join(site.home, "trace");
      const words = [program, "trace", "record", mounted, "-o", trace];
      const recording = spawn(process.execPath, [...words, "--socket", site.daemon.socketPath], {
        stdio: ["ignore", "ignore", "pipe"],
      });
      const ended = once(recording, "exit");
      // That it records, now.
      await once(recording.stderr, "data");
      await end("cat", [join(mounted, "file")]);
      recording.kill("SIGINT");
      expect(await ended).toEqual([0, null]);
      const wrong = await asked("prefetch", other, "--trace", trace);
      expect([wrong.code, wrong.stdout]).toEqual([2, ""]);
      expect(wrong.stderr).toMatch(
        /this trace is not of it: .*\nhint: take a trace of this image\n$/,
      );
      expect((await asked("prefetch", reference, "--trace", trace)).code).toBe(0);
    },
    timeout,
  );

  test(
    "a socket of a living daemon is refused, a dead one's is taken",
    async () => {
      const serve = async (socket: string) => {
        const path = join(site.home, "other.toml");
        const cache = join(site.home, "other-cache");
        const kernel = '[kernel]\ndoor = "full"';
        const text = `[cache]\ndir = "${cache}"\n${kernel}\n[control]\nsocket = "${socket}"\n`;
        await writeFile(path, `${text}[log]\nformat = "json"\n`);
        return end("timeout", [
          "-s",
          "KILL",
          "8",
          process.execPath,
          program,
          "serve",
          "--config",
          path,
        ]);
      };
      const refused = await serve(site.daemon.socketPath);
      expect(refused.code).toBe(3);
      expect(refused.stderr).toContain(`a running daemon answers at ${site.daemon.socketPath}`);
      expect((await asked("ps")).code).toBe(0);
      const socket = join(site.home, "run", "s");
      for (let round = 0; round < 2; round += 1) {
        expect((await serve(socket)).stdout).toContain('"msg":"ready"');
        const nobody = await erofsd("ps", "--socket", socket);
        expect([nobody.code, nobody.stderr]).toEqual([6, expect.stringContaining("ECONNREFUSED")]);
      }
    },
    timeout,
  );
});

test.each<[method: string, path: string, body: string | undefined, status: number, field: string]>([
  ["POST", "/v1/images", "{bad", 400, "body"],
  ["POST", "/v1/images", '{"reference":5}', 400, "reference"],
  ["POST", "/v1/images", '{"reference":"h/r:t","colour":1}', 400, "colour"],
  ["POST", "/v1/mounts", '{"reference":"h/r:t"}', 400, "mountPoint"],
  ["POST", "/v1/mounts", '{"reference":"h/r:t","mountPoint":"relative"}', 400, "mountPoint"],
  ["GET", "/v1/mounts?all=yes", undefined, 400, "all"],
  ["GET", "/v1/failures?key=a&key=b", undefined, 400, "key"],
  ["PATCH", "/v1/config", '{"cache.dir":"/x"}', 400, "cache.dir"],
  ["DELETE", "/v1/mounts/%2Fnone", undefined, 404, ""],
  ["DELETE", "/v1/mounts", undefined, 405, ""],
  ["GET", "/v2/mounts", undefined, 404, ""],
])("over the socket: %s %s %s", async (method, path, body, status, field) => {
  const given = body === undefined ? [] : ["-d", body];
  const words = ["-s", "-w", "\n%{http_code}", "-X", method, ...given];
  const at = ["--unix-socket", site.daemon.socketPath, `http://erofsd${path}`];
  const { stdout } = await end("curl", [...words, ...at]);
  const [text = "", code] = stdout.trim().split(/\n+/);
  expect(code).toBe(String(status));
  const told = failure.parse(JSON.parse(text));
  expect([told.field ?? "", told.message !== "", told.hint !== undefined]).toEqual([
    field,
    true,
    true,
  ]);
});
