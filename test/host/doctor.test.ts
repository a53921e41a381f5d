// SPDX-License-Identifier: Apache-2.0
// `erofsd doctor` on this very machine, as root: what it tries is really there, and it is gone
// afterwards. It needs what test/host/fanotify.test.ts needs.

import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as z from "zod";
import { end, program } from "./support/site.ts";

const timeout = 120_000;
const report = z.looseObject({
  chosen: z.string().optional(),
  doors: z.array(
    z.looseObject({
      door: z.string(),
      works: z.boolean(),
      detail: z.string(),
      fix: z.string().optional(),
    }),
  ),
  findings: z.array(z.looseObject({ what: z.string(), verdict: z.string() })),
  problem: z.looseObject({ code: z.string() }).optional(),
});

let home: string;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), "erofsd-doctor-"));
  await mkdir(join(home, "cache"));
}, timeout);

afterAll(() => rm(home, { recursive: true, force: true }));

async function doctor(config: string, ...words: readonly string[]) {
  const path = join(home, "config.toml");
  await writeFile(
    path,
    `[cache]\ndir = "${home}/cache/not/yet"\n[control]\nsocket = "${home}/none.sock"\n[kernel]\ndevice = "/nowhere"\n${config}`,
  );
  return end(process.execPath, [program, "doctor", "--config", path, ...words]);
}

describe("erofsd doctor", () => {
  test(
    "says which doors work, and leaves nothing behind",
    async () => {
      const ended = await doctor("", "--json");
      expect([ended.code, ended.stderr]).toEqual([0, ""]);
      const { chosen, doors, findings } = report.parse(JSON.parse(ended.stdout));
      expect(doors).toMatchObject([
        { door: "cachefiles", works: false, detail: "/nowhere does not exist" },
        { door: "fanotify", works: true },
        { door: "full", works: true, detail: "mounted from a file" },
      ]);
      expect(doors[0]?.fix).toContain("CONFIG_CACHEFILES_ONDEMAND");
      expect(chosen).toBe("fanotify");
      expect(findings.filter(({ verdict }) => verdict === "bad")).toEqual([]);
      expect(findings.find(({ what }) => what === "daemon")).toMatchObject({ verdict: "note" });
      expect(await readdir(join(home, "cache"))).toEqual([]);
      expect(await readFile("/proc/self/mountinfo", "utf8")).not.toContain(home);
    },
    timeout,
  );

  test(
    "ends with 3 where the door that is configured does not work, and says how to get it",
    async () => {
      const { code, stdout, stderr } = await doctor('door = "cachefiles"');
      expect(code).toBe(3);
      expect(stdout).toMatch(/^cachefiles +no +\/nowhere does not exist$/m);
      expect(stdout).toContain("`erofsd serve` finds no door here");
      expect(stderr).toMatch(/^erofsd: \/nowhere does not exist\nhint: .*modprobe cachefiles/);
    },
    timeout,
  );

  test(
    "ends with 2 where the configuration is wrong",
    async () => {
      const { code, stdout, stderr } = await doctor('dor = "auto"');
      expect(code).toBe(2);
      expect(stdout).toMatch(/^configuration +bad /m);
      expect(stderr).toContain('did you mean "door"?');
    },
    timeout,
  );
});
