// SPDX-License-Identifier: Apache-2.0
// Real programs: shell scripts in a directory of the test's own.
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { type Clock, systemClock } from "../../../../../src/platform/clock.ts";
import { CredentialPrograms } from "../../../../../src/source/registry/credentials/credential-programs.ts";
import {
  type Grant,
  basicAuthorization,
} from "../../../../../src/source/registry/credentials/grant.ts";
import {
  findProgram,
  parseMountInfo,
} from "../../../../../src/source/registry/credentials/program-path.ts";
import { runProgram } from "../../../../../src/source/registry/credentials/run-program.ts";
import { FakeClock } from "../../../../support/fake-clock.ts";
import { QuietLog } from "../../../../support/quiet-log.ts";
import { tempDir } from "../../../../support/temp-dir.ts";

const SECRET = "the-secret-9";

let folder: string;
let log: QuietLog;

beforeEach(async () => {
  folder = await tempDir();
  log = new QuietLog();
});

/** Appends what it was asked for to `asked`, then runs `script`. */
async function install(name: string, script: string): Promise<void> {
  const path = join(folder, `docker-credential-${name}`);
  const body = `#!/bin/sh\nread -r host\necho "$1 $host" >>${folder}/asked\n${script}\n`;
  await writeFile(path, body.replace("read -r host", "host=$(cat)"));
  await chmod(path, 0o755);
}

function answer(username: string, secret: string): string {
  return `echo '${JSON.stringify({ ServerURL: "x", Username: username, Secret: secret })}'`;
}

function programs(clock: Clock = systemClock): CredentialPrograms {
  return new CredentialPrograms({ clock, log, environment: { PATH: `${folder}:/usr/bin:/bin` } });
}

function wanted(host = "registry.example", refused?: Grant) {
  return { host, repository: "app", refused, signal: new AbortController().signal };
}

async function asked(): Promise<readonly string[]> {
  const text = await readFile(join(folder, "asked"), "utf8").catch(() => "");
  return text.split("\n").filter((line) => line !== "");
}

describe("a credential program", () => {
  it("is asked for the host on its standard input, once for all who wait and for a while", async () => {
    await install("x", answer("alice", SECRET));
    const clock = new FakeClock();
    const known = programs(clock);
    const grants = await Promise.all([known.get("x", wanted()), known.get("x", wanted())]);
    for (const grant of grants) {
      expect(grant?.basicAuthorization).toBe(basicAuthorization("alice", SECRET));
    }
    await clock.advance(299_000);
    await known.get("x", wanted());
    expect(await asked()).toEqual(["get registry.example"]);
    await clock.advance(1_000);
    await known.get("x", wanted());
    expect(await asked()).toHaveLength(2);
    expect(clock.pendingCount).toBe(0);
  });

  it("is asked again when its answer is refused, but not at once", async () => {
    await install("x", answer("alice", SECRET));
    const clock = new FakeClock();
    const known = programs(clock);
    const first = await known.get("x", wanted());
    await install("x", answer("alice", "rotated"));
    expect(await known.get("x", wanted("registry.example", first))).toBe(first);
    await clock.advance(5_000);
    const second = await known.get("x", wanted("registry.example", first));
    expect(second?.basicAuthorization).toBe(basicAuthorization("alice", "rotated"));
    // Who was refused with the first one is given the second, which is known.
    expect(await known.get("x", wanted("registry.example", first))).toBe(second);
    expect(await asked()).toHaveLength(2);
  });

  it("knows Docker Hub by docker's name, and gives identity tokens as <token>", async () => {
    await install("x", answer("<token>", SECRET));
    const grant = await programs().get("x", wanted("docker.io"));
    expect(grant?.identityToken).toBe(SECRET);
    expect(await asked()).toEqual(["get https://index.docker.io/v1/"]);
  });

  it("that has nothing for a host is not complained about", async () => {
    await install("x", "echo credentials not found in native keychain; exit 1");
    expect(await programs().get("x", wanted())).toBeUndefined();
    expect(log.lines).toEqual([]);
  });

  it.each<[string, string, RegExp]>([
    ["fails", `echo ${SECRET}; echo ${SECRET} >&2; exit 3`, /status 3$/],
    ["answers with something else", `echo ${SECRET}`, /with JSON$/],
    ["answers without a secret", `echo '{"Username": "${SECRET}"}'`, /Username and Secret$/],
    ["gives a wrong user", answer(`a:${SECRET}`, "x"), /no colon$/],
    ["prints without end", `yes ${SECRET}`, /more than 65536 bytes$/],
    ["kills itself", "kill -9 $$", /was killed$/],
  ])("that %s is warned of once, without its words", async (_, script, reason) => {
    await install("x", script);
    const clock = new FakeClock();
    const known = programs(clock);
    expect(await known.get("x", wanted())).toBeUndefined();
    expect(await known.get("x", wanted())).toBeUndefined();
    await clock.advance(10_000);
    expect(await known.get("x", wanted())).toBeUndefined();
    expect(await asked()).toHaveLength(2);
    expect(log.messages("warn")).toHaveLength(1);
    expect(log.messages("warn")[0]).toMatch(reason);
    expect(JSON.stringify(log.lines)).not.toContain(SECRET);
  });

  it("that is not there is warned of", async () => {
    expect(await programs().get("none", wanted())).toBeUndefined();
    expect(log.messages("warn")[0]).toMatch(/docker-credential-none: it is not in PATH$/);
  });

  it("that hangs is killed with all it has started", async () => {
    await install("x", `sleep 1000 & echo $! >${folder}/pid; echo ready >${folder}/ready; wait`);
    const clock = new FakeClock();
    const path = join(folder, "docker-credential-x");
    const { signal } = new AbortController();
    const environment = { PATH: "/usr/bin:/bin" };
    const run = runProgram({ path, input: "h", environment, clock, signal });
    const failed = expect(run).rejects.toThrow("no answer within 10000 ms");
    while ((await readFile(join(folder, "ready"), "utf8").catch(() => "")) === "") await turn();
    await clock.advance(10_000);
    await failed;
    const pid = Number(await readFile(join(folder, "pid"), "utf8"));
    while (isRunning(pid, await statOf(pid))) await turn();
    expect(clock.pendingCount).toBe(0);
  });

  it("ends when the daemon stops", async () => {
    await install("x", "sleep 1000");
    const stop = new AbortController();
    const asking = programs().get("x", { ...wanted(), signal: stop.signal });
    while ((await asked()).length === 0) await turn();
    stop.abort();
    expect(await asking).toBeUndefined();
    expect(log.lines).toEqual([]);
  });
});

function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

function statOf(pid: number): Promise<string> {
  return readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
}

/** A zombie runs no more. */
function isRunning(pid: number, stat: string): boolean {
  return stat.startsWith(`${pid} `) && !/\) Z /.test(stat);
}

describe("the way to a program", () => {
  it("is the first in PATH that may be run", async () => {
    await Promise.all(["a", "b"].map((name) => mkdir(join(folder, name))));
    await writeFile(join(folder, "a/p"), "");
    await writeFile(join(folder, "b/p"), "");
    await chmod(join(folder, "b/p"), 0o755);
    const path = `relative::${folder}/none:${folder}/a:${folder}/b`;
    expect(await findProgram("p", path, () => Promise.resolve([]))).toBe(`${folder}/b/p`);
  });

  it("never leads through a mount of ours, nor does a link", async () => {
    const { symlink } = await import("node:fs/promises");
    await Promise.all(["mnt", "bin"].map((name) => mkdir(join(folder, name))));
    await writeFile(join(folder, "mnt/p"), "");
    await chmod(join(folder, "mnt/p"), 0o755);
    await symlink(join(folder, "mnt/p"), join(folder, "bin/p"));
    const own = () => Promise.resolve([join(folder, "mnt")]);
    for (const directory of ["mnt", "bin"]) {
      const finding = findProgram("p", join(folder, directory), own);
      await expect(finding).rejects.toThrow("a mount of erofsd itself");
    }
  });

  it("knows our mounts by their type and fsid", () => {
    const text = [
      "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
      "30 21 0:40 / /mnt/a\\040b ro,relatime shared:9 - erofs none ro,domain_id=erofsd,fsid=sha256:1",
      "31 21 7:0 / /snap ro - erofs /dev/loop0 ro,user_xattr",
      "32 21 0:41 / /mnt/c ro - erofs none ro,fsid=x",
      "",
    ].join("\n");
    expect(parseMountInfo(text)).toEqual(["/mnt/a b", "/mnt/c"]);
  });
});
