// SPDX-License-Identifier: Apache-2.0
// The API socket as bytes: what the snapshotter's client and its liveness connection meet.

import { chmod, lstat, stat, writeFile } from "node:fs/promises";
import { type Socket, connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { ApiServer } from "../../../src/nydusd/http.ts";
import { isAnswered } from "../../../src/platform/private-socket.ts";
import { leaveStale } from "./api-client.ts";
import { Rig } from "./scripted-rooms.ts";

let rig: Rig;
beforeEach(async () => {
  rig = await Rig.make();
});

function open(): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(rig.apiSocket, () => {
      resolve(socket);
    });
    socket.on("error", reject);
    onTestFinished(() => void socket.destroy());
  });
}

/** What comes back within a moment, on a connection that stays open. */
async function raw(text: string, socket?: Socket): Promise<string> {
  const connection = socket ?? (await open());
  let answer = "";
  connection.setEncoding("utf8").on("data", (piece: string) => {
    answer += piece;
  });
  connection.write(text);
  for (let left = 100; left > 0 && !answer.includes("\r\n\r\n"); left -= 1) await sleep(5);
  await sleep(20);
  return answer;
}

const INFO = "GET /api/v1/daemon HTTP/1.1\r\nHost: unix\r\n\r\n";
const SENDFD = "PUT /api/v1/daemon/fuse/sendfd HTTP/1.1\r\nHost: unix\r\nContent-Length: 0\r\n\r\n";

describe("an answer", () => {
  test("without a body is 204 with an empty reason and nydusd's headers, and nothing else", async () => {
    await rig.begin(rig.supervised);
    expect(await raw(SENDFD)).toBe(
      "HTTP/1.1 204 \r\nServer: Nydus API\r\nConnection: keep-alive\r\n\r\n",
    );
  });

  test("with a body is JSON with its length", async () => {
    await rig.begin();
    const [head = "", body = ""] = (await raw(INFO)).split("\r\n\r\n");
    expect(head.split("\r\n")).toEqual([
      "HTTP/1.1 200 ",
      "Server: Nydus API",
      "Connection: keep-alive",
      "Content-Type: application/json",
      `Content-Length: ${Buffer.byteLength(body)}`,
    ]);
    expect(JSON.parse(body)).toMatchObject({ id: null, supervisor: null, state: "RUNNING" });
  });

  test("to an unknown path is 404, to a wrong method 400, to no method of nydusd's 405", async () => {
    await rig.begin();
    const unknown = await rig.ask("GET", "/api/v9/x");
    expect(unknown).toMatchObject({ status: 404, reason: "" });
    expect(unknown.body).toEqual({ code: "UNDEFINED", message: "NoRoute" });
    const posted = await rig.ask("POST", "/api/v1/daemon");
    expect(posted.status).toBe(400);
    expect(posted.body).toEqual({ code: "UNDEFINED", message: "BadRequest" });
    expect((await rig.ask("OPTIONS", "/api/v1/daemon")).status).toBe(405);
    expect((await rig.ask("GET", "/api/v1/__proto__")).status).toBe(404);
    expect((await rig.ask("GET", "/api/v2/blobs", "{}")).status).toBe(400);
  });

  test("to a body over 51200 bytes is 400 with an error, and the connection goes on", async () => {
    await rig.begin();
    const body = "x".repeat(60_750);
    const put = `PUT /api/v2/blobs HTTP/1.1\r\nHost: unix\r\nContent-Length: ${body.length}\r\n\r\n`;
    const socket = await open();
    const answer = await raw(put + body, socket);
    expect(answer).toMatch(/^HTTP\/1\.1 400 \r\n/);
    expect(JSON.parse(answer.split("\r\n\r\n")[1] ?? "")).toEqual({
      error: expect.stringMatching(
        /^Request payload with size 60750 is larger than the limit of 51200/,
      ) as unknown,
    });
    expect(await raw(INFO, socket)).toContain("RUNNING");
  });

  test("to a body without a length is the same", async () => {
    await rig.begin();
    const piece = `${(30_000).toString(16)}\r\n${"x".repeat(30_000)}\r\n`;
    const put = "PUT /api/v2/blobs HTTP/1.1\r\nHost: unix\r\nTransfer-Encoding: chunked\r\n\r\n";
    expect(await raw(`${put}${piece}${piece}0\r\n\r\n`)).toContain("size 60000 is larger");
  });

  test("to a body too large to be read is 400 at once", async () => {
    await rig.begin();
    const put = `PUT /api/v2/blobs HTTP/1.1\r\nHost: unix\r\nContent-Length: 99999999999\r\n\r\n`;
    expect(await raw(put)).toMatch(/^HTTP\/1\.1 400 [^]*size 99999999999 is larger/);
  });

  test("to no HTTP at all is 400", async () => {
    await rig.begin();
    expect(await raw("hello\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 \r\n/);
  });
});

describe("a connection", () => {
  test("on which nothing is said stays open, also beside others that come and go", async () => {
    await rig.begin();
    const idle = await open();
    let ended = false;
    idle.on("close", () => {
      ended = true;
    });
    idle.on("end", () => {
      ended = true;
    });
    for (let at = 0; at < 5; at += 1) {
      expect((await rig.ask("GET", "/api/v1/daemon")).status).toBe(200);
      await sleep(100);
    }
    expect(ended).toBe(false);
  });

  test("is never timed out: each of Node's four limits is off", async () => {
    await rig.begin();
    const server = new ApiServer({
      socketPath: "/none",
      log: rig.log,
      respond: () => Promise.resolve({}),
    });
    expect(server.timeouts).toEqual([0, 0, 0, 0]);
  });

  test("carries one request after the other", async () => {
    await rig.begin();
    const socket = await open();
    for (let at = 0; at < 3; at += 1) expect(await raw(INFO, socket)).toContain("RUNNING");
  });
});

describe("the socket's file", () => {
  test("is for its owner alone", async () => {
    await rig.begin();
    expect((await stat(rig.apiSocket)).mode & 0o777).toBe(0o600);
  });

  test("is replaced when nobody answers there", async () => {
    await leaveStale(rig.apiSocket);
    await rig.begin();
    expect((await rig.ask("GET", "/api/v1/daemon")).status).toBe(200);
  });

  test("is an error when a daemon answers there, unless this is an upgrade", async () => {
    await rig.begin();
    const second = rig.again();
    await expect(second.make().begin()).rejects.toThrow(/a running daemon answers/);
    await rig.again().begin(["--upgrade"]);
    expect(await rig.state()).toBe("INIT");
    // The old one leaves the file that is not its own any more.
    await rig.adapter?.stop();
    expect((await lstat(rig.apiSocket)).isSocket()).toBe(true);
  });

  test("is an error when it is no socket, and stays", async () => {
    await writeFile(rig.apiSocket, "precious");
    await chmod(rig.apiSocket, 0o600);
    await expect(rig.make().begin()).rejects.toThrow(/is no socket/);
    expect((await stat(rig.apiSocket)).size).toBe(8);
  });

  test("is removed by an orderly stop", async () => {
    await rig.begin();
    await rig.adapter?.stop();
    await expect(lstat(rig.apiSocket)).rejects.toThrow(/ENOENT/);
    expect(await isAnswered(rig.apiSocket)).toBe(false);
  });
});
