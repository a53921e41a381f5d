// SPDX-License-Identifier: Apache-2.0
// keeper.ts with a real keeper; a FIFO stands for the device. What it does with the kernel's
// messages is shown by kernel-notes/probes/keeper.py.

import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import {
  type KeeperLink,
  startKeeper,
  takeFromKeeper,
  watchKeeper,
} from "../../../src/kernel/keeper.ts";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { faultFrom } from "../../support/faults.ts";

const ROOT = process.getuid?.() === 0;
const LIMIT = { timeout: 10_000, interval: 10 };
let native: Native;
let directory = "";
let socketPath = "";
let serial = 0;
let device = -1;
let warnings: string[] = [];
const nothing = (): void => undefined;
const log = {
  trace: nothing,
  debug: nothing,
  info: nothing,
  error: nothing,
  warn: (_: object, message: string) => void warnings.push(message),
};

beforeAll(() => {
  native = loadNative({ writerThreads: 1 });
  directory = mkdtempSync(join(tmpdir(), "erofsd-keeper-"));
  chmodSync(directory, 0o755);
  execFileSync("mkfifo", [join(directory, "device")]);
  device = openSync(join(directory, "device"), constants.O_RDWR | constants.O_NONBLOCK);
});
afterAll(async () => {
  await native.destroy();
  closeSync(device);
  rmSync(directory, { recursive: true });
});
beforeEach(() => {
  serial += 1;
  socketPath = join(directory, `keeper-${serial}`);
  warnings = [];
});
afterEach(() => {
  const pid = keeperPid();
  if (pid !== undefined) process.kill(pid, "SIGKILL");
});

const told = (): void => {
  warnings.push("the keeper is gone");
};
const options = () => ({ native, socketPath, log, fds: { cachefiles: device } });
const start = (graceSeconds = 30): Promise<KeeperLink> =>
  startKeeper({ ...options(), graceSeconds }, told);
const watch = (): Promise<KeeperLink> => watchKeeper(options(), told);
const take = async (): Promise<number | undefined> =>
  (await takeFromKeeper({ native, socketPath })).cachefiles;
const untilGone = (): Promise<void> =>
  vi.waitFor(() => {
    expect(existsSync(socketPath)).toBe(false);
  }, LIMIT);

function keeperPid(): number | undefined {
  const pid = readdirSync("/proc").find((name) => {
    try {
      return readFileSync(`/proc/${name}/cmdline`, "utf8").includes(`\0${socketPath}\0`);
    } catch {
      return false;
    }
  });
  return pid === undefined ? undefined : Number(pid);
}

test("it gives the device's fd to whoever takes it, again and again, and ends at bye", async () => {
  const link = await start();
  for (let i = 0; i < 20; i += 1) {
    const fd = (await take()) ?? -1;
    expect(readlinkSync(`/proc/self/fd/${fd}`)).toBe(join(directory, "device"));
    closeSync(fd);
  }
  await link.bye();
  expect(existsSync(socketPath)).toBe(false);
  expect(await take()).toBeUndefined();
  expect(warnings).toEqual([]);
});

test("it takes at most 2 MB of memory and holds nothing but the device and its sockets", async () => {
  const link = await start();
  const status = readFileSync(`/proc/${keeperPid()}/status`, "utf8");
  expect(Number(/^VmRSS:\s*(\d+)/m.exec(status)?.[1])).toBeLessThanOrEqual(2048);
  const expected = ["/dev/null", "anon_inode:[signalfd]", "socket:[]", join(directory, "device")];
  const held = (): string[] =>
    readdirSync(`/proc/${keeperPid()}/fd`).map((fd) =>
      readlinkSync(`/proc/${keeperPid()}/fd/${fd}`).replace(/\[\d+/, "["),
    );
  // It lets go of its pipe just after the word.
  await vi.waitFor(() => {
    expect(new Set(held())).toEqual(new Set(expected));
  }, LIMIT);
  await link.bye();
});

test("no keeper gives no fd, and the socket of a dead one is removed", async () => {
  expect(await take()).toBeUndefined();
  const link = await start();
  process.kill(keeperPid() ?? -1, "SIGKILL");
  await vi.waitFor(() => {
    expect(warnings).toHaveLength(1);
  }, LIMIT);
  link.objects(5);
  await link.bye();
  expect(existsSync(socketPath)).toBe(true);
  expect(await take()).toBeUndefined();
  expect(existsSync(socketPath)).toBe(false);
  expect(warnings).toEqual(["the keeper is gone"]);
});

test("a daemon lost with no objects open is its end", async () => {
  const link = await start();
  link.objects(3);
  link.objects(0);
  link.close();
  await untilGone();
});

test("a daemon lost with objects is waited for; the next one goes on from there", async () => {
  const link = await start();
  link.objects(1);
  link.objects(2);
  // Written in the next turn of the loop, read by the keeper before the next answer.
  await new Promise(setImmediate);
  closeSync((await take()) ?? -1);
  link.close();
  const next = await watch();
  closeSync((await take()) ?? -1);
  // It still has two objects in mind.
  next.close();
  closeSync((await take()) ?? -1);
  const last = await watch();
  await last.bye();
  expect(existsSync(socketPath)).toBe(false);
});

test("the latest daemon wins, the one before is told by its link's end", async () => {
  const first = await start();
  const second = await watch();
  await vi.waitFor(() => {
    expect(warnings).toHaveLength(1);
  }, LIMIT);
  first.close();
  await second.bye();
  expect(warnings).toHaveLength(1);
});

test("SIGTERM ends it in order; SIGHUP and SIGINT do not", async () => {
  await start();
  const pid = keeperPid() ?? -1;
  process.kill(pid, "SIGHUP");
  process.kill(pid, "SIGINT");
  closeSync((await take()) ?? -1);
  process.kill(pid, "SIGTERM");
  await untilGone();
});

test.runIf(ROOT)("its socket is for its user alone, and it looks who speaks", async () => {
  const link = await start();
  expect(statSync(socketPath).mode & 0o777).toBe(0o600);
  chmodSync(socketPath, 0o666);
  const script = `
import os, socket, sys
os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
try:
    s.sendall(b"take\\n")
    print(socket.recv_fds(s, 10, 1)[:2])
except OSError as error:
    print(error.strerror)
`;
  const stranger = spawnSync("python3", ["-c", script, socketPath], { encoding: "utf8" });
  expect(stranger.stdout).toMatch(/^(\(b'', \[\]\)|Broken pipe|Connection reset by peer)$/m);
  await link.bye();
});

test("what does not start is a fault: the socket cannot be made", async () => {
  writeFileSync(socketPath, "in the way");
  const fault = await faultFrom(start());
  expect(fault).toMatchObject({ code: "syscall_failed", syscall: "spawn", errnoName: "ECHILD" });
  rmSync(socketPath);
});
