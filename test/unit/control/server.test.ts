// SPDX-License-Identifier: Apache-2.0
// The control socket, over a real one: who may connect, what it answers, and how it fails.

import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { type Socket, connect, createServer } from "node:net";
import { join } from "node:path";
import { inspect } from "node:util";
import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { RemoteError, ask } from "../../../src/control/client.ts";
import {
  type Status,
  droppedAnswer,
  failureAnswer,
  registeredImage,
  statusAnswer,
} from "../../../src/control/schema.ts";
import type { ControlOperations } from "../../../src/control/control-operations.ts";
import { ControlServer } from "../../../src/control/server.ts";
import { DaemonError } from "../../../src/errors.ts";
import { onlyOperations } from "../../support/control-operations.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { QuietLog } from "../../support/quiet-log.ts";
import { tempDir } from "../../support/temp-dir.ts";
import { ownPeers } from "../../support/own-peers.ts";

const STATUS: Status = {
  version: "0.1.0",
  pid: 7,
  ready: true,
  kernelMessages: { open: 1, read: 2, readBytes: 8192, close: 3, malformed: 0 },
  source: { requests: 4, bytes: 5, failures: 6 },
  cache: { writes: 7, writtenBytes: 8 },
  waitingReads: 0,
  objects: [{ cookieKey: "k", cachedBytes: 4096, sizeBytes: 8192 }],
};
const IMAGE = {
  reference: "registry.example/app:v1",
  manifestDigest: "sha256:0",
  fsid: "sha256:1",
  domainId: "erofsd",
  devices: [],
  sizeBytes: 9,
};

let socketPath: string;
let operations: ControlOperations;

beforeEach(async () => {
  socketPath = join(await tempDir(), "run", "erofsd.sock");
  operations = onlyOperations({
    register: () => Promise.resolve(IMAGE),
    lastFailure: () => undefined,
    status: () => STATUS,
    metrics: () => Promise.resolve({ contentType: "text/plain; version=0.0.4", text: "up 1\n" }),
    pushCredentials: () => undefined,
    dropCredentials: () => false,
  });
});

async function listening(path = socketPath): Promise<ControlServer> {
  const server = new ControlServer({
    peers: ownPeers(),
    socketPath: path,
    operations,
    log: new QuietLog(),
  });
  await server.listen();
  onTestFinished(() => server.close());
  return server;
}

/** Sends `text` as it is and gives all that comes back until the connection closes. */
function raw(text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath);
    let answer = "";
    socket.setEncoding("utf8");
    socket.on("data", (piece: string) => {
      answer += piece;
    });
    socket.on("error", reject);
    socket.on("close", () => {
      resolve(answer);
    });
    socket.write(text);
  });
}

function request(route: string, body = ""): string {
  return `${route} HTTP/1.1\r\nhost: erofsd\r\nconnection: close\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

/** The same request on a connection that stays open. */
function keepAlive(text: string): string {
  return text.replace("connection: close\r\n", "");
}

function parsed(answer: string): { status: number; body: unknown } {
  const [head = "", body = ""] = answer.split("\r\n\r\n", 2);
  const json = body.slice(body.indexOf("{"), body.lastIndexOf("}") + 1);
  return { status: Number(head.split(" ")[1]), body: JSON.parse(json) };
}

const register = (body: object): Promise<unknown> =>
  ask(socketPath, { method: "POST", path: "/v1/images", body, answer: registeredImage });

describe("the socket", () => {
  test("is for its owner alone", async () => {
    await listening();
    expect((await stat(socketPath)).mode & 0o777).toBe(0o600);
  });

  test("that a dead daemon left is replaced", async () => {
    const dead = createServer();
    await mkdir(join(socketPath, ".."), { recursive: true });
    // Bound, but nobody listens: what a killed process leaves.
    await new Promise<void>((resolve) => {
      dead.listen(socketPath, resolve);
    });
    const copy = `${socketPath}.copy`;
    const { link } = await import("node:fs/promises");
    await link(socketPath, copy);
    await new Promise((resolve) => {
      dead.close(resolve);
    });
    await link(copy, socketPath);
    await listening();
    expect(
      await ask(socketPath, { method: "GET", path: "/v1/status", answer: statusAnswer }),
    ).toEqual(STATUS);
  });

  test("of a living daemon is left alone", async () => {
    await listening();
    const second = new ControlServer({
      peers: ownPeers(),
      socketPath,
      operations,
      log: new QuietLog(),
    });
    expect(await rejectionOf(second.listen())).toBe("socket_in_use");
    expect(
      await ask(socketPath, { method: "GET", path: "/v1/status", answer: statusAnswer }),
    ).toEqual(STATUS);
  });

  test("is never made by deleting a file that is no socket", async () => {
    await mkdir(join(socketPath, ".."), { recursive: true });
    await writeFile(socketPath, "precious");
    const server = new ControlServer({
      peers: ownPeers(),
      socketPath,
      operations,
      log: new QuietLog(),
    });
    expect(await rejectionOf(server.listen())).toBe("config_invalid");
    expect(await readFile(socketPath, "utf8")).toBe("precious");
  });

  test("closes with requests still under way", async () => {
    operations.register = () => new Promise(() => undefined);
    const server = await listening();
    const waiting = rejectionOf(register({ reference: "r" }));
    await new Promise((resolve) => setImmediate(resolve));
    await server.close();
    expect(await waiting).toBe("daemon_unreachable");
  });
});

describe("an answer", () => {
  test("has the metrics as Prometheus reads them", async () => {
    await listening();
    const answer = await raw(request("GET /v1/metrics"));
    expect(answer).toMatch(/^HTTP\/1.1 200 OK\r\n/);
    expect(answer).toContain("content-type: text/plain; version=0.0.4\r\n");
    expect(answer).toContain("up 1\n");
  });

  test("carries the status, the last failure and a registered image", async () => {
    const failure = { code: "key_unknown", message: "m", hint: "h", atMs: 5 };
    const asked: string[] = [];
    operations.lastFailure = (key) => {
      asked.push(key);
      return failure;
    };
    await listening();
    const path = `/v1/failures?key=${encodeURIComponent("a/b c&d")}`;
    expect(await ask(socketPath, { method: "GET", path, answer: failureAnswer })).toEqual({
      failure,
    });
    expect(asked).toEqual(["a/b c&d"]);
    expect(await register({ reference: "registry.example/app:v1" })).toEqual(IMAGE);
  });

  test("says nothing of a failure when there was none", async () => {
    await listening();
    const path = "/v1/failures?key=x";
    expect(await ask(socketPath, { method: "GET", path, answer: failureAnswer })).toEqual({});
  });

  test.each([
    [new DaemonError({ code: "reference_invalid", reference: "x", detail: "d" }), 400],
    [new DaemonError({ code: "registry_unreachable", host: "r", detail: "d" }), 502],
    [new DaemonError({ code: "image_unsupported", where: "w", detail: "d" }), 422],
    [new DaemonError({ code: "stopping" }), 503],
  ])(
    "to a request that fails with %s has status %d and the daemon's words",
    async (error, status) => {
      operations.register = () => Promise.reject(error);
      await listening();
      const answer = parsed(await raw(request("POST /v1/images", '{"reference":"r"}')));
      const { code } = error.fault;
      expect(answer).toEqual({
        status,
        body: { code, message: error.message, hint: error.policy.hint },
      });
      await expect(register({ reference: "r" })).rejects.toBeInstanceOf(RemoteError);
    },
  );

  test("to our own bug is an internal error, not silence", async () => {
    operations.register = () => Promise.reject(new TypeError("oops"));
    await listening();
    const answer = parsed(await raw(request("POST /v1/images", '{"reference":"r"}')));
    expect(answer).toMatchObject({ status: 500, body: { code: "internal" } });
  });
});

describe("a request that is wrong", () => {
  test.each([
    ["GET /v1/failures", "", "key"],
    ["POST /v1/images", "{", "body"],
    ["POST /v1/images", "", "body"],
    ["POST /v1/images", "[]", "body"],
    ["POST /v1/images", "{}", "reference"],
    ["POST /v1/images", '{"reference":""}', "reference"],
    ["POST /v1/images", '{"reference":"r","fsid":7}', "fsid"],
    ["POST /v1/images", '{"reference":"r","more":1}', "more"],
    ["POST /v1/images", `{"reference":"${"r".repeat(5000)}"}`, "reference"],
  ])("%s %s is refused and names the field", async (route, body, field) => {
    await listening();
    const answer = parsed(await raw(request(route, body)));
    expect(answer).toMatchObject({ status: 400, body: { code: "request_invalid", field } });
    expect(JSON.stringify(answer.body)).toContain(`"message":"${field}: `);
  });

  test("with a body that is too long gets its answer, and so does the next on the connection", async () => {
    await listening();
    const long = keepAlive(request("POST /v1/images", " ".repeat(4_000_000)));
    const answers = await raw(long + request("GET /v1/status"));
    expect([...answers.matchAll(/HTTP\/1.1 (\d+)/g)].map(([, status]) => status)).toEqual([
      "413",
      "200",
    ]);
    expect(answers).toContain('"code":"request_too_large"');
  });

  test("does not disturb the next one", async () => {
    await listening();
    await raw("garbage\r\n\r\n");
    expect(
      await ask(socketPath, { method: "GET", path: "/v1/status", answer: statusAnswer }),
    ).toEqual(STATUS);
  });
});

describe("credentials", () => {
  const SECRET = "secret9";
  const push = (body: string) => raw(request("POST /v1/credentials", body));

  test("are pushed and dropped, and nothing gives them back", async () => {
    const pushed: unknown[] = [];
    const dropped: unknown[] = [];
    operations.pushCredentials = (given) => void pushed.push(given);
    operations.dropCredentials = (given) => dropped.push(given) > 1;
    await listening();
    const password = { host: "h", repository: "team/app", username: "u", password: SECRET };
    const token = { host: "h", token: SECRET };
    for (const given of [password, token]) {
      expect(parsed(await push(JSON.stringify(given)))).toEqual({ status: 200, body: {} });
    }
    expect(pushed).toEqual([password, token]);
    for (const deleted of [false, true]) {
      const path = "/v1/credentials?host=h&repository=team%2Fapp";
      const asked = { method: "DELETE", path, answer: droppedAnswer } as const;
      expect(await ask(socketPath, asked)).toEqual({ deleted });
    }
    expect(dropped[0]).toEqual({ host: "h", repository: "team/app" });
    for (const route of ["GET /v1/credentials", "GET /v1/credentials?host=h"]) {
      expect(parsed(await raw(request(route))).status).toBe(405);
    }
  });

  test.each([
    `{"host": "h", "username": "u", "password": "${SECRET}`,
    SECRET,
    `{"host": "h", "username": "${SECRET}"}`,
    `{"host": "h", "username": "u", "password": "${SECRET}", "token": "${SECRET}"}`,
    `{"host": "h", "token": "${SECRET}", "more": 1}`,
    `{"host": "h", "token": ["${SECRET}"]}`,
    `{"host": "h", "token": "${SECRET.repeat(5000)}"}`,
  ])("that are given wrongly are refused without a word of them: %#", async (body) => {
    operations.pushCredentials = () => {
      throw new Error("it was taken");
    };
    const log = new QuietLog();
    const server = new ControlServer({ peers: ownPeers(), socketPath, operations, log });
    await server.listen();
    onTestFinished(() => server.close());
    const answer = await push(body);
    expect(parsed(answer)).toMatchObject({
      status: 400,
      body: { code: "request_invalid" },
    });
    expect(log.lines).toHaveLength(1);
    expect(answer + inspect(log.lines, { depth: 9 })).not.toContain(SECRET);
  });

  test("to be dropped need a host", async () => {
    await listening();
    const answer = parsed(await raw(request("DELETE /v1/credentials?repository=a")));
    expect(answer.status).toBe(400);
    expect(JSON.stringify(answer.body)).toContain('"message":"host: ');
  });
});

describe("a client that goes away", () => {
  test("aborts what it asked for", async () => {
    const socket: Socket[] = [];
    const aborted = new Promise<void>((resolve) => {
      operations.register = (_request, signal) => {
        signal.addEventListener("abort", () => {
          resolve();
        });
        socket[0]?.destroy();
        return new Promise(() => undefined);
      };
    });
    await listening();
    socket.push(connect(socketPath));
    socket[0]?.write(request("POST /v1/images", '{"reference":"r"}'));
    await aborted;
  });

  test("and one that stays leaves no listener on its connection for each request", async () => {
    await listening();
    const warnings: string[] = [];
    const warned = (warning: Error): void => void warnings.push(warning.name);
    process.on("warning", warned);
    onTestFinished(() => void process.off("warning", warned));
    const asked = keepAlive(request("POST /v1/images", '{"reference":"r"}'));
    const answers = await raw(asked.repeat(15) + request("GET /v1/status"));
    expect(answers.split("HTTP/1.1 200").length - 1).toBe(16);
    expect(warnings).toEqual([]);
  });
});

describe("the client", () => {
  test("says that no daemon answers, and where", async () => {
    const asking = ask(socketPath, { method: "GET", path: "/v1/status", answer: statusAnswer });
    await expect(asking).rejects.toMatchObject({
      fault: { code: "daemon_unreachable", socketPath },
    });
  });

  test("does not trust an answer of another shape", async () => {
    await listening();
    const asking = ask(socketPath, { method: "GET", path: "/v1/status", answer: registeredImage });
    expect(await rejectionOf(asking)).toBe("daemon_unreachable");
  });
});
