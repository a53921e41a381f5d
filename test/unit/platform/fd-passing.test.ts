// SPDX-License-Identifier: Apache-2.0
// Bytes and fds over unix sockets, with a python3 peer that has them from its own library.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { type Native, loadNative } from "../../../src/platform/native.ts";
import { MIB } from "../../../src/units.ts";
import { faultFrom } from "../../support/faults.ts";

const LIMIT_MS = 10_000;
const NOTHING = new Uint8Array();
let native: Native;
let directory = "";
let socketPath = "";
let serial = 0;
let peer: ChildProcess | undefined;
beforeAll(() => {
  native = loadNative({ writerThreads: 1 });
  directory = mkdtempSync(join(tmpdir(), "erofsd-fds-"));
});
afterAll(async () => {
  await native.destroy();
  rmSync(directory, { recursive: true });
});
afterEach(() => {
  peer?.kill();
});

/** A peer that listens, accepts one connection `c` and runs `script`; what it prints, at its end. */
async function startPeer(script: string): Promise<() => Promise<string>> {
  serial += 1;
  socketPath = join(directory, `socket-${serial}`);
  const prelude = `
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(${JSON.stringify(socketPath)})
s.listen(1)
print("ready", flush=True)
c, _ = s.accept()
`;
  const running = spawn("python3", ["-c", prelude + script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  peer = running;
  let output = "";
  const ended = once(running, "close");
  await new Promise<void>((resolve) => {
    running.stdout.on("data", (piece: Buffer) => {
      output += piece.toString();
      resolve();
    });
  });
  return async () => {
    await ended;
    return output.slice("ready\n".length).trim();
  };
}

const RECEIVE_ALL = `
data, fds, _, _ = socket.recv_fds(c, 1000, 10)
while True:
    more = c.recv(65536)
    if not more: break
    data += more
print(len(data), data[:3], len(fds), *(os.read(fd, 100).decode() for fd in fds))
`;

const fdCount = (): number => readdirSync("/proc/self/fd").length;

test("sendWithFd sends the fd with the first byte, and all bytes of many", async () => {
  const file = join(directory, "sent");
  writeFileSync(file, "content");
  const fd = openSync(file, "r");
  const output = await startPeer(RECEIVE_ALL);
  await native.sendWithFd(socketPath, new Uint8Array(3 * MIB).fill(65), fd, LIMIT_MS);
  expect(await output()).toBe(`${3 * MIB} b'AAA' 1 content`);
  closeSync(fd);
});

test("sendWithFd sends a NUL when there are no bytes, and no fd when there is none", async () => {
  const fd = openSync("/dev/null", "r");
  const output = await startPeer(RECEIVE_ALL);
  await native.sendWithFd(socketPath, NOTHING, fd, LIMIT_MS);
  expect(await output()).toBe("1 b'\\x00' 1");
  closeSync(fd);
  const second = await startPeer(RECEIVE_ALL);
  await native.sendWithFd(socketPath, Buffer.from("ab"), undefined, LIMIT_MS);
  expect(await second()).toBe("2 b'ab' 0");
});

test("receiveWithFd keeps the first fd with FD_CLOEXEC, closes others, reads to the end", async () => {
  const file = join(directory, "received");
  writeFileSync(file, "first file");
  const before = fdCount();
  const output = await startPeer(`
request = c.recv(100)
a = os.open(${JSON.stringify(file)}, os.O_RDONLY)
b = os.open("/dev/null", os.O_RDONLY)
socket.send_fds(c, [request], [a, b, b])
socket.send_fds(c, [b" more"], [b])
time.sleep(0.05)
c.sendall(b"x" * 100000)
c.close()
`);
  const request = Buffer.from("take\n");
  const { bytes, fd } = await native.receiveWithFd(socketPath, request, LIMIT_MS, MIB);
  expect(Buffer.from(bytes).toString()).toBe(`take\n more${"x".repeat(100_000)}`);
  expect(fd).toBeDefined();
  expect(readFileSync(fd ?? -1, "utf8")).toBe("first file");
  const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1];
  expect(Number.parseInt(flags ?? "", 8) & 0o2000000).toBe(0o2000000);
  closeSync(fd ?? -1);
  await output();
  expect(fdCount()).toBeLessThanOrEqual(before);
});

test("receiveWithFd without an fd gives none", async () => {
  await startPeer(`c.sendall(b"hello"); c.close()`);
  const received = await native.receiveWithFd(socketPath, NOTHING, LIMIT_MS, 5);
  expect(Buffer.from(received.bytes).toString()).toBe("hello");
  expect(received.fd).toBeUndefined();
});

test("more than bytesMax is EMSGSIZE, and an fd that came with it is closed", async () => {
  const output = await startPeer(`
r, w = os.pipe()
socket.send_fds(c, [b"hello"], [w])
os.close(w)
c.close()
print("closed" if os.read(r, 1) == b"" else "?")
`);
  const fault = await faultFrom(native.receiveWithFd(socketPath, NOTHING, LIMIT_MS, 4));
  expect(fault).toMatchObject({ syscall: "recvmsg", errnoName: "EMSGSIZE", detail: socketPath });
  expect(await output()).toBe("closed");
});

test("a peer that says nothing is ETIMEDOUT, to the receiver and to the sender", async () => {
  await startPeer("time.sleep(100)");
  const receiving = await faultFrom(native.receiveWithFd(socketPath, NOTHING, 50, 4));
  expect(receiving).toMatchObject({ syscall: "recvmsg", errnoName: "ETIMEDOUT" });
  peer?.kill();
  await startPeer("time.sleep(100)");
  const sending = native.sendWithFd(socketPath, new Uint8Array(8 * MIB), undefined, 50);
  expect(await faultFrom(sending)).toMatchObject({ syscall: "sendmsg", errnoName: "ETIMEDOUT" });
});

test("nobody there is ENOENT or ECONNREFUSED, a long path ENAMETOOLONG", async () => {
  const send = (path: string) => faultFrom(native.sendWithFd(path, NOTHING, undefined, LIMIT_MS));
  const absent = { code: "syscall_failed", syscall: "connect", errnoName: "ENOENT" };
  expect(await send(join(directory, "nothing"))).toMatchObject(absent);
  const stale = await startPeer("");
  await native.sendWithFd(socketPath, NOTHING, undefined, LIMIT_MS);
  await stale();
  expect(await send(socketPath)).toMatchObject({ errnoName: "ECONNREFUSED" });
  expect(await send(`/${"x".repeat(107)}`)).toMatchObject({ errnoName: "ENAMETOOLONG" });
});

test("a wrong argument rejects with a TypeError or RangeError", async () => {
  const send = (path: string, fd: number, timeoutMs: number) =>
    native.sendWithFd(path, NOTHING, fd, timeoutMs);
  await expect(send("", 0, 1)).rejects.toThrow(/^exchange: "socketPath"/);
  await expect(send("a", 0.5, 1)).rejects.toThrow(/^exchange: "fd"/);
  await expect(send("a", 0, 0)).rejects.toThrow(/^exchange: "timeoutMs"/);
  await expect(native.receiveWithFd("a", NOTHING, 1, 2 ** 31)).rejects.toThrow(/"bytesMax"/);
});
