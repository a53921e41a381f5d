// SPDX-License-Identifier: Apache-2.0
// Against datagram sockets of python3's, which receives as systemd does, and a process that was
// started with fds as systemd starts one.

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { rolldown } from "rolldown";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { Systemd } from "../../../src/platform/systemd.ts";
import { faultFrom } from "../../support/faults.ts";

const root = fileURLToPath(new URL("../../../", import.meta.url));
let native: Native;
let directory = "";
let peer: ChildProcess | undefined;
beforeAll(() => {
  native = loadNative({ writerThreads: 1 });
  directory = mkdtempSync(join(tmpdir(), "erofsd-systemd-"));
});
afterEach(() => {
  peer?.kill("SIGKILL");
});
afterAll(async () => {
  await native.destroy();
  rmSync(directory, { recursive: true });
});

/** Prints a line of JSON for each datagram: its text, and what is in the fds that came with it. */
const RECEIVE = `
import json, os, socket, sys, time
name, pause, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\\0" + name[1:] if name[0] == "@" else name)
print("ready", flush=True)
time.sleep(pause)
for _ in range(count):
    data, fds, _, _ = socket.recv_fds(s, 65536, 10)
    print(json.dumps([data.decode(), [os.read(fd, 100).decode() for fd in fds]]), flush=True)
`;

/** A receiver at `name` that looks after `pauseSeconds`; gives `count` messages. */
async function receive(name: string, count: number, pauseSeconds = 0) {
  const words = ["-c", RECEIVE, name, String(pauseSeconds), String(count)];
  const running = spawn("python3", words, { stdio: ["ignore", "pipe", "inherit"] });
  peer = running;
  let output = "";
  await new Promise<void>((resolve) => {
    running.stdout.on("data", (piece: Buffer) => {
      output += piece.toString();
      resolve();
    });
  });
  const ended = new Promise<void>((resolve) => {
    running.once("close", () => {
      resolve();
    });
  });
  return async (): Promise<unknown[]> => {
    await ended;
    const [, ...lines] = output.trim().split("\n");
    return lines.map((line): unknown => JSON.parse(line));
  };
}

test("what is notified arrives in order, at a path", async () => {
  const path = join(directory, "notify");
  const received = await receive(path, 3);
  const environment = { NOTIFY_SOCKET: path, HOME: "/" };
  const systemd = new Systemd(native, environment);
  expect(environment).toEqual({ HOME: "/" });
  expect(systemd.isListening).toBe(true);
  await Promise.all([
    systemd.notify({ READY: 1, STATUS: "serving\n2 mounts" }),
    systemd.notify({ WATCHDOG: 1 }),
    systemd.notify({ RELOADING: 1 }),
  ]);
  const [ready, watchdog, reloading] = await received();
  expect(ready).toEqual(["READY=1\nSTATUS=serving 2 mounts", []]);
  expect(watchdog).toEqual(["WATCHDOG=1", []]);
  expect(reloading).toEqual([expect.stringMatching(/^RELOADING=1\nMONOTONIC_USEC=\d+$/), []]);
});

test("an fd is stored, and dropped, at an abstract name", async () => {
  const name = `@erofsd-test-${process.pid}`;
  const received = await receive(name, 2);
  const systemd = new Systemd(native, { NOTIFY_SOCKET: name });
  const file = join(directory, "stored");
  writeFileSync(file, "content");
  const fd = openSync(file, "r");
  await systemd.storeFd("device", fd);
  closeSync(fd);
  await systemd.dropStoredFd("device");
  expect(await received()).toEqual([
    ["FDSTORE=1\nFDNAME=device\nFDPOLL=0", ["content"]],
    ["FDSTOREREMOVE=1\nFDNAME=device", []],
  ]);
  await expect(async () => systemd.storeFd("a:b", fd)).rejects.toThrow(RangeError);
});

test("a receiver whose queue is full is waited for", async () => {
  const path = join(directory, "slow");
  const count = 600; // more than net.unix.max_dgram_qlen
  const received = await receive(path, count, 0.3);
  const systemd = new Systemd(native, { NOTIFY_SOCKET: path });
  const sent = Array.from({ length: count }, (_, i) => systemd.notify({ STATUS: i }));
  await Promise.all(sent);
  expect(await received()).toEqual(
    Array.from({ length: count }, (_, i) => [`STATUS=${String(i)}`, []]),
  );
});

test("nobody to notify is no fault; one who is gone is", async () => {
  const alone = new Systemd(native, {});
  expect(alone.isListening).toBe(false);
  await alone.notify({ READY: 1 });
  const gone = new Systemd(native, { NOTIFY_SOCKET: join(directory, "nothing") });
  expect(await faultFrom(gone.notify({ READY: 1 }))).toMatchObject({
    code: "syscall_failed",
    syscall: "sendmsg",
    errnoName: "ENOENT",
  });
  const long = new Systemd(native, { NOTIFY_SOCKET: `/${"x".repeat(200)}` });
  expect(await faultFrom(long.notify({ READY: 1 }))).toMatchObject({ errnoName: "ENAMETOOLONG" });
});

test("the watchdog's time, for this process alone", () => {
  const usec = (environment: Record<string, string>) =>
    new Systemd(native, environment).watchdogUsec();
  expect(usec({ WATCHDOG_USEC: "20000000" })).toBe(20_000_000);
  expect(usec({ WATCHDOG_USEC: "20000000", WATCHDOG_PID: String(process.pid) })).toBe(20_000_000);
  expect(usec({ WATCHDOG_USEC: "20000000", WATCHDOG_PID: "1" })).toBeUndefined();
  expect(usec({ WATCHDOG_USEC: "0" })).toBeUndefined();
  expect(usec({})).toBeUndefined();
});

test("fds that are for another process, or are not there, are not taken", () => {
  const other = new Systemd(native, { LISTEN_PID: "1", LISTEN_FDS: "1" });
  expect(other.takeListenFds()).toEqual(new Map());
  const promised = { LISTEN_PID: String(process.pid), LISTEN_FDS: "4096" };
  expect(() => new Systemd(native, promised)).toThrow("EBADF");
});

/** Started with fds from 3 on, without FD_CLOEXEC, as systemd starts a service. */
const PASS = `
import os, sys
names, program = sys.argv[1], sys.argv[2:]
count = len(names.split(":"))
for i in range(count):
    r, w = os.pipe()
    os.write(w, b"fd %d" % i)
    os.dup2(r, 10 + i, inheritable=False)
    os.close(r); os.close(w)
for i in range(count):
    os.dup2(10 + i, 3 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
os.execvp(program[0], program)
`;

const TAKE = `
import { createRequire } from "node:module";
import { readFileSync, readSync } from "node:fs";
import { Systemd } from "./systemd.mjs";
const binding = createRequire(${JSON.stringify(root)})("node-gyp-build")(${JSON.stringify(join(root, "native"))});
const systemd = new Systemd(binding);
const taken = [...systemd.takeListenFds()].map(([name, fds]) => [name, fds.map((fd) => {
  const bytes = Buffer.alloc(10);
  const text = bytes.toString("utf8", 0, readSync(fd, bytes));
  const flags = /flags:\\s*(\\d+)/.exec(readFileSync("/proc/self/fdinfo/" + fd, "utf8"))[1];
  return [text, (parseInt(flags, 8) & 0o2000000) !== 0];
})]);
const left = Object.keys(process.env).filter((name) => name.startsWith("LISTEN"));
console.log(JSON.stringify({ taken, left, again: systemd.takeListenFds().size }));
`;

test("fds that systemd passes are taken by name, once, and no child gets them", async () => {
  const bundle = await rolldown({
    input: join(root, "src/platform/systemd.ts"),
    platform: "node",
    external: ["pino"],
  });
  await bundle.write({ file: join(directory, "systemd.mjs"), format: "esm" });
  await bundle.close();
  writeFileSync(join(directory, "take.mjs"), TAKE);
  const { stdout } = await promisify(execFile)("python3", [
    "-c",
    PASS,
    "device:erofsd.socket:device",
    process.execPath,
    join(directory, "take.mjs"),
  ]);
  expect(JSON.parse(stdout)).toEqual({
    taken: [
      [
        "device",
        [
          ["fd 0", true],
          ["fd 2", true],
        ],
      ],
      ["erofsd.socket", [["fd 1", true]]],
    ],
    left: [],
    again: 0,
  });
});
