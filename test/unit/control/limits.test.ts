// SPDX-License-Identifier: Apache-2.0
// What a client can do to the control socket: wrong requests, slow ones, too many, too long.

import { type Socket, connect } from "node:net";
import { once } from "node:events";
import { describe, expect, onTestFinished, test } from "vitest";
import { ControlRig } from "../../support/control-rig.ts";
import { TAG } from "../../support/names-rig.ts";

async function client(rig: ControlRig, text: string): Promise<Socket> {
  const socket = connect(rig.socketPath);
  onTestFinished(() => void socket.destroy());
  await once(socket, "connect");
  socket.setEncoding("utf8");
  socket.write(text);
  return socket;
}

/** Everything until the server closes the connection. */
async function allOf(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (piece: string) => {
    text += piece;
  });
  // A reset is one of the ways a server closes.
  socket.on("error", () => undefined);
  await new Promise((resolve) => socket.once("close", resolve));
  return text;
}

function bodyOf(text: string): unknown {
  return JSON.parse(text.slice(text.indexOf("\r\n\r\n") + 4));
}

describe("a wrong request gets one clear error", () => {
  test.each([
    ["GET", "/v1/nothing", undefined, 404, "route_unknown"],
    ["GET", "/", undefined, 404, "route_unknown"],
    ["GET", "/v2/images", undefined, 404, "route_unknown"],
    ["GET", "//v1/health", undefined, 404, "route_unknown"],
    ["GET", "http://[/v1/health", undefined, 404, "route_unknown"],
    ["GET", "/v1/images/a/b", undefined, 404, "route_unknown"],
    ["PUT", "/v1/health", undefined, 405, "method_unsupported"],
    ["HEAD", "/v1/health", undefined, 405, undefined],
    ["DELETE", "/v1/images", undefined, 405, "method_unsupported"],
    ["GET", "/v1/images/%zz", undefined, 400, "request_invalid"],
    ["GET", "/v1/images/", undefined, 400, "request_invalid"],
    ["GET", "/v1/health?more=1", undefined, 400, "request_invalid"],
    ["GET", "/v1/failures?key=a&key=b", undefined, 400, "request_invalid"],
    ["GET", "/v1/health", "{}", 400, "request_invalid"],
    ["POST", "/v1/images", "{", 400, "request_invalid"],
    ["POST", "/v1/images", '{"reference":1}', 400, "request_invalid"],
    ["POST", "/v1/images", '{"reference":"r","__proto__":1}', 400, "request_invalid"],
    ["POST", "/v1/images", new Uint8Array([0x22, 0xff, 0x22]), 400, "request_invalid"],
    ["POST", "/v1/images", "x".repeat(65_537), 413, "request_too_large"],
  ])("%s %s", async (method, path, body, status, code) => {
    const rig = await ControlRig.start();
    const reply = await rig.ask(method, path, body);
    expect([reply.status, code === undefined ? undefined : reply.json]).toEqual([
      status,
      code === undefined ? undefined : expect.objectContaining({ code }),
    ]);
    expect(reply.text).not.toContain("\n\n");
  });

  test("which says what the path takes", async () => {
    const rig = await ControlRig.start();
    const { headers, json } = await rig.ask("DELETE", "/v1/images");
    expect(headers["allow"]).toBe("GET, POST");
    expect(json).toMatchObject({ message: "/v1/images does not take DELETE, only GET, POST" });
  });

  test.each([
    ["garbage\r\n\r\n", "400", "request_invalid"],
    ["CONNECT h:80 HTTP/1.1\r\nhost: h\r\n\r\n", "405", "method_unsupported"],
    [`GET / HTTP/1.1\r\nx: ${"y".repeat(17_000)}\r\n\r\n`, "431", "request_too_large"],
    ["GET /v1/health HTTP/1.1\r\ncontent-length: x\r\n\r\n", "400", "request_invalid"],
  ])("also when it is no request: %#", async (text, status, code) => {
    const rig = await ControlRig.start();
    const answer = await allOf(await client(rig, text));
    expect(answer.split(" ")[1]).toBe(status);
    expect(bodyOf(answer)).toMatchObject({ code });
    expect((await rig.ask("GET", "/v1/health")).status).toBe(200);
  });
});

describe("an odd request that can be served", () => {
  test.each([
    ["without a host", "GET /v1/health HTTP/1.1\r\nconnection: close\r\n\r\n"],
    ["of HTTP/1.0", "GET /v1/health HTTP/1.0\r\n\r\n"],
    ["that expects something", "GET /v1/health HTTP/1.1\r\nexpect: x\r\nconnection: close\r\n\r\n"],
  ])("%s is served", async (_, text) => {
    const rig = await ControlRig.start();
    const answer = await allOf(await client(rig, text));
    expect(answer).toMatch(/^HTTP\/1.1 200 /);
    expect(bodyOf(answer)).toMatchObject({ status: "ok" });
  });
});

describe("a slow client", () => {
  const limits = { headersTimeoutMs: 100, requestTimeoutMs: 200 };

  test.each([
    ["without a word", ""],
    ["in the head", "GET /v1/health HT"],
    ["in the body", "POST /v1/images HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n{"],
  ])("that stops %s is told so and cut off", async (_, text) => {
    const rig = await ControlRig.start({ limits });
    const answer = await allOf(await client(rig, text));
    expect(answer).toMatch(/^HTTP\/1.1 408 /);
    expect(bodyOf(answer)).toMatchObject({ code: "request_slow" });
    expect((await rig.ask("GET", "/v1/health")).status).toBe(200);
  });

  test("that does not take its answer is cut off", async () => {
    const rig = await ControlRig.start({ limits: { sendTimeoutMs: 100, requestsMax: 1 } });
    const text = "x".repeat(4 * 1024 * 1024);
    rig.operations.metrics = () => Promise.resolve({ contentType: "text/plain", text });
    const socket = await client(rig, "GET /v1/metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    socket.pause();
    await expect.poll(async () => (await rig.ask("GET", "/v1/health")).status).toBe(503);
    await expect.poll(async () => (await rig.ask("GET", "/v1/health")).status).toBe(200);
    socket.resume();
    const answer = await allOf(socket);
    expect(answer.length).toBeLessThan(text.length);
  });
});

describe("many clients", () => {
  test("are told that there are too many, and served as soon as one is gone", async () => {
    const rig = await ControlRig.start({ limits: { requestsMax: 2 } });
    rig.names.publish(TAG, "stall");
    const waiting = [1, 2].map(() => {
      const body = JSON.stringify({ reference: TAG });
      const head = `POST /v1/images HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n`;
      return client(rig, head + body);
    });
    const [first] = await Promise.all(waiting);
    await rig.names.until(() => rig.names.resolved.length === 1);
    const busy = await rig.ask("GET", "/v1/health");
    expect([busy.status, busy.headers["retry-after"]]).toEqual([503, "1"]);
    expect(busy.json).toMatchObject({ code: "daemon_busy" });
    first?.destroy();
    await expect.poll(async () => (await rig.ask("GET", "/v1/health")).status).toBe(200);
    rig.stopping.abort();
  });
});

describe("a client that goes away", () => {
  const body = JSON.stringify({ reference: TAG });
  const text = `POST /v1/images HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`;

  test("ends its wait and not the work: the image is bound all the same", async () => {
    const rig = await ControlRig.start();
    rig.names.publish(TAG, "stall");
    const socket = await client(rig, text);
    await rig.names.until(() => rig.names.resolved.length === 1);
    socket.destroy();
    await once(socket, "close");
    expect(rig.names.resolved[0]?.options.signal.aborted).toBe(false);
    rig.names.publish(TAG, rig.names.image());
    rig.names.release();
    await rig.names.until(() => [...rig.names.bindings.all()].length === 1);
    expect((await rig.ask("GET", "/v1/images")).json).toMatchObject({
      images: [{ reference: TAG }],
    });
  });

  test("leaves the work to whoever asked for the same, which is done once", async () => {
    const rig = await ControlRig.start();
    rig.names.publish(TAG, "stall");
    const socket = await client(rig, text);
    await rig.names.until(() => rig.names.resolved.length === 1);
    const second = await client(rig, text.replace("host: x", "host: x\r\nconnection: close"));
    const answer = allOf(second);
    socket.destroy();
    rig.names.publish(TAG, rig.names.image());
    rig.names.release();
    expect(bodyOf(await rig.names.settled(answer))).toMatchObject({ reference: TAG });
    expect(rig.names.resolved.length).toBe(1);
  });

  test("does not keep what is under way alive when the daemon stops", async () => {
    const rig = await ControlRig.start();
    rig.names.publish(TAG, "stall");
    await client(rig, text);
    await rig.names.until(() => rig.names.resolved.length === 1);
    rig.stopping.abort();
    expect(rig.names.resolved[0]?.options.signal.aborted).toBe(true);
  });
});
