// SPDX-License-Identifier: Apache-2.0
// The registry client against a peer that does every wrong thing.
import { describe, expect, it } from "vitest";
import { DaemonError, type Fault } from "../../../../src/errors.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { faultFrom } from "../../../support/faults.ts";
import { OCI_MANIFEST, digestOf, jsonBytes } from "../../../support/oci-image.ts";
import { freePort } from "../../../support/port.ts";
import { CONTENT, startClient } from "../../../support/registry-client.ts";
import {
  type Respond,
  askedRange,
  response,
  rightAnswer,
} from "../../../support/scripted-server.ts";

const EXTENT = { offset: 5_000, length: 40_000 };
const WANTED = CONTENT.subarray(5_000, 45_000);
const MANIFEST = jsonBytes({ schemaVersion: 2 });

/** Answers request n with the n-th script, and everything after with the last one. */
function inTurn(...scripts: readonly Respond[]): Respond {
  return (request, socket) =>
    scripts[Math.min(request.index, scripts.length - 1)]?.(request, socket);
}

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

function answer(status: number, headers: Record<string, string> = {}, body?: Uint8Array): Respond {
  return (_, socket) => socket.write(response(status, headers, body));
}

describe("reading a range", () => {
  it("asks for exactly the range and delivers exactly its bytes", async () => {
    await using client = await startClient(right);
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    const [request] = client.server.requests;
    expect(request?.path).toBe(`/v2/team/app/blobs/${client.blob.digest}`);
    expect(request?.headers.get("range")).toBe("bytes=5000-44999");
    expect(request?.headers.get("accept-encoding")).toBe("identity");
    expect(client.observed).toEqual({
      requests: [client.server.host],
      bytes: EXTENT.length,
      failures: [],
    });
  });

  it("keeps its connections", async () => {
    await using client = await startClient(right);
    for (let offset = 0; offset < 20; offset += 1) await client.read({ offset, length: 10 });
    // A request made the moment another ends finds that one's connection not yet free.
    expect(client.server.openSockets.size).toBeLessThanOrEqual(2);
  });

  it("never has more connections to a host than allowed", async () => {
    let busiest = 0;
    await using client = await startClient(
      (request, socket) => {
        busiest = Math.max(busiest, client.server.openSockets.size);
        right(request, socket);
      },
      { options: { connections: 2 } },
    );
    const extents = Array.from({ length: 12 }, (_, offset) => ({ offset, length: 10 }));
    await Promise.all(extents.map((extent) => client.read(extent)));
    expect(busiest).toBe(2);
  });

  it("makes no request for nothing", async () => {
    await using client = await startClient(right);
    expect(await client.read({ offset: 7, length: 0 })).toHaveLength(0);
    expect(client.server.requests).toHaveLength(0);
  });

  it("takes a 200 for the whole blob", async () => {
    await using client = await startClient(answer(200, {}, CONTENT));
    expect(sameBytes(await client.read(), CONTENT)).toBe(true);
  });

  it("goes on after a broken connection at the byte behind the last one", async () => {
    const cut: Respond = (request, socket) => {
      const { offset } = askedRange(request);
      const whole = rightAnswer(request, CONTENT);
      const body = whole.indexOf("\r\n\r\n") + 4;
      socket.end(whole.subarray(0, body + (offset === 5_000 ? 12_345 : 1_000)));
    };
    await using client = await startClient(inTurn(cut, cut, right));
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    const ranges = client.server.requests.map(({ headers }) => headers.get("range"));
    expect(ranges).toEqual(["bytes=5000-44999", "bytes=17345-44999", "bytes=18345-44999"]);
    expect(client.observed.failures).toEqual(["registry_unreachable", "registry_unreachable"]);
  });

  it("is over once it has tried as often as it may", async () => {
    await using client = await startClient((_, socket) => socket.end());
    const { fault } = await client.readFault(EXTENT);
    expect(fault.code).toBe("registry_unreachable");
    expect(client.server.requests).toHaveLength(4);
  });

  it("tries once when told so", async () => {
    await using client = await startClient(answer(500));
    const { fault } = await client.readFault(EXTENT, { attemptsMax: 1 });
    expect(fault).toMatchObject({ code: "registry_failed", status: 500 });
    expect(client.server.requests).toHaveLength(1);
  });

  it("survives 500 and 503", async () => {
    await using client = await startClient(inTurn(answer(500), answer(503), right));
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
  });

  it("does not hide what the receiver of the bytes throws", async () => {
    await using client = await startClient(right);
    const work = client.source.readRange(
      client.blob,
      EXTENT,
      () => {
        throw new Error("a bug");
      },
      { signal: new AbortController().signal, deadlineMs: performance.now() + 9_000 },
    );
    await expect(work).rejects.toThrow("a bug");
    expect(client.server.requests).toHaveLength(1);
  });
});

function ranged(status: number, range: string, body: Uint8Array = WANTED): Respond {
  return answer(status, { "content-range": range }, body);
}

const chunked = { "transfer-encoding": "chunked", "content-range": "bytes 5000-44999/100000" };

function chunk(bytes: Uint8Array): Buffer {
  const size = Buffer.from(`${bytes.length.toString(16)}\r\n`);
  return Buffer.concat([size, bytes, Buffer.from("\r\n")]);
}

const END = Buffer.from("0\r\n\r\n");

/** A right head, then `body` in chunks: its length is known only at its end. */
function inChunks(...body: readonly Uint8Array[]): Respond {
  return (_, socket) => {
    socket.write(Buffer.concat([response(206, chunked), ...body.map(chunk), END]));
  };
}

/** A head that promises a body, and an end before it. */
function brokenOff(status: number): Respond {
  return (_, socket) => socket.end(response(status, { "content-length": "9" }));
}

/** More of a body than anybody wants, and no end. */
function endless(status: number): Respond {
  return answer(status, { "content-length": "99999999" }, CONTENT);
}

describe("a wrong answer to a range request", () => {
  it.each<[string, Respond, Fault["code"]]>([
    ["200 with the whole blob", answer(200, {}, CONTENT), "registry_protocol"],
    ["206 without Content-Range", answer(206, {}, WANTED), "registry_protocol"],
    ["another offset", ranged(206, "bytes 5001-45000/100000"), "registry_protocol"],
    ["another end", ranged(206, "bytes 5000-44998/100000"), "registry_protocol"],
    ["another size", ranged(206, "bytes 5000-44999/99999"), "blob_truncated"],
    [
      "a short body",
      ranged(206, "bytes 5000-44999/100000", WANTED.subarray(1)),
      "registry_protocol",
    ],
    ["a long body", ranged(206, "bytes 5000-44999/100000", CONTENT), "registry_protocol"],
    ["416", answer(416, { "content-range": "bytes */99999" }), "blob_truncated"],
    ["416 with a body that breaks off", brokenOff(416), "blob_truncated"],
    ["404 with a body without end", endless(404), "blob_not_found"],
    [
      "gzip",
      answer(
        206,
        { "content-range": "bytes 5000-44999/100000", "content-encoding": "gzip" },
        WANTED,
      ),
      "registry_protocol",
    ],
    ["404", answer(404), "blob_not_found"],
    ["410", answer(410), "blob_not_found"],
    ["401", answer(401), "registry_unauthorized"],
    [
      "401 that wants a password",
      answer(401, { "www-authenticate": 'Basic realm="x"' }),
      "registry_unauthorized",
    ],
    ["403", answer(403), "registry_unauthorized"],
    ["408", answer(408), "registry_timeout"],
    ["429", answer(429), "registry_throttled"],
    ["204", answer(204), "registry_failed"],
    ["a redirect to nowhere", answer(307), "registry_protocol"],
    ["a redirect to a file", answer(307, { location: "file:///etc/passwd" }), "registry_protocol"],
    ["no HTTP at all", (_, socket) => socket.end("SSH-2.0-OpenSSH\r\n\r\n"), "registry_protocol"],
    ["headers without end", answer(206, { "x-flood": "a".repeat(64 * 1024) }), "registry_protocol"],
    ["a closed connection", (_, socket) => socket.end(), "registry_unreachable"],
    ["a reset", (_, socket) => socket.resetAndDestroy(), "registry_unreachable"],
  ])("%s is refused and nothing is delivered", async (_, respond, code) => {
    await using client = await startClient(respond, { options: { attemptsMax: 2 } });
    const { fault, delivered } = await client.readFault(EXTENT);
    expect(fault.code).toBe(code);
    expect(delivered).toHaveLength(0);
    const { retry } = new DaemonError(fault).policy;
    expect(client.server.requests).toHaveLength(retry === "never" ? 1 : 2);
    expect(client.observed.failures.every((seen) => seen === code)).toBe(true);
  });

  it("a body in chunks that ends early is gone on with", async () => {
    await using client = await startClient(inTurn(inChunks(WANTED.subarray(0, 100)), right));
    expect(sameBytes(await client.read(EXTENT), WANTED)).toBe(true);
    expect(client.server.requests[1]?.headers.get("range")).toBe("bytes=5100-44999");
    expect(client.observed.failures).toEqual(["registry_protocol"]);
  });

  it("a body in chunks that is too long is refused, without a byte too many", async () => {
    await using client = await startClient(inChunks(WANTED, Uint8Array.of(1)));
    const { fault, delivered } = await client.readFault(EXTENT);
    expect(fault.code).toBe("registry_protocol");
    expect(sameBytes(WANTED.subarray(0, delivered.length), delivered)).toBe(true);
    expect(client.observed.failures.length).toBeLessThanOrEqual(4);
  });

  it("names what it asked for but no query string", async () => {
    const signed = "/v2/team/app/blobs/x?X-Signature=topsecret";
    await using client = await startClient((request, socket) => {
      const status = request.path.includes("?") ? 500 : 307;
      socket.write(response(status, { location: signed }));
    });
    const { fault } = await client.readFault(EXTENT);
    expect(fault).toMatchObject({ code: "registry_failed", status: 500 });
    const told = JSON.stringify([fault, new DaemonError(fault).message, client.logged]);
    expect(told).toContain(client.blob.digest);
    expect(told).not.toContain("topsecret");
  });
});

describe("a manifest", () => {
  const found: Respond = answer(
    200,
    { "content-type": `${OCI_MANIFEST}; charset=utf-8` },
    MANIFEST,
  );
  const options = () => ({
    signal: new AbortController().signal,
    deadlineMs: performance.now() + 9_000,
  });

  it("is asked for with all types and comes with its digest", async () => {
    await using client = await startClient(found);
    const manifest = await client.source.fetchManifest(client.origin, "v1", options());
    expect(manifest).toEqual({
      digest: digestOf(MANIFEST),
      mediaType: OCI_MANIFEST,
      bytes: MANIFEST,
    });
    const [request] = client.server.requests;
    expect(request?.path).toBe("/v2/team/app/manifests/v1");
    for (const type of [
      "application/vnd.oci.image.index.v1+json",
      "application/vnd.oci.image.manifest.v1+json",
      "application/vnd.docker.distribution.manifest.list.v2+json",
      "application/vnd.docker.distribution.manifest.v2+json",
    ]) {
      expect(request?.headers.get("accept")).toContain(type);
    }
  });

  it("by digest must be what its digest says", async () => {
    await using client = await startClient(found);
    const other = digestOf(Uint8Array.of(1));
    expect(await client.fetchFault(other)).toEqual({
      code: "digest_mismatch",
      where: `manifest ${other} at ${client.server.host}`,
      expected: other,
      actual: digestOf(MANIFEST),
    });
  });

  it("by tag must be what the registry says it is", async () => {
    const headers = { "docker-content-digest": digestOf(Uint8Array.of(1)) };
    await using client = await startClient(answer(200, headers, MANIFEST));
    expect((await client.fetchFault()).code).toBe("digest_mismatch");
  });

  it("that is not there is named", async () => {
    await using client = await startClient(answer(404));
    expect(await client.fetchFault("v9")).toEqual({
      code: "manifest_not_found",
      host: client.server.host,
      repository: "team/app",
      wanted: "v9",
    });
  });

  it("of more than 4 MiB is not read", async () => {
    const large = new Uint8Array(4 * 1024 * 1024 + 1);
    await using client = await startClient(answer(200, {}, large), { options: { attemptsMax: 1 } });
    expect((await client.fetchFault()).code).toBe("registry_protocol");
  });
});

describe("a host that cannot be reached", () => {
  it("refuses connections", async () => {
    const host = `127.0.0.1:${await freePort()}`;
    await using client = await startClient(right, { host });
    const { fault } = await client.readFault(EXTENT);
    expect(fault).toMatchObject({ code: "registry_unreachable", host });
    expect("detail" in fault ? fault.detail : "").toMatch(/connection refused/);
    expect(client.observed.failures).toHaveLength(4);
  });

  it("has no address", async () => {
    const options = { plainHttp: () => true, attemptsMax: 1 };
    await using client = await startClient(right, { host: "registry.invalid", options });
    const { fault } = await client.readFault(EXTENT);
    expect(fault).toMatchObject({ code: "registry_unreachable", host: "registry.invalid" });
    expect("detail" in fault ? fault.detail : "").toMatch(/host name does not resolve/);
  });

  it("does not speak TLS", async () => {
    const options = { plainHttp: () => false, attemptsMax: 1 };
    await using client = await startClient(right, { options });
    // What comes first is a TLS greeting; the scripted server answers with plain text.
    client.server.onConnection((socket) => socket.end("HTTP/1.1 400 X\r\n\r\n"));
    const { fault } = await client.readFault(EXTENT);
    expect(fault.code).toBe("registry_unreachable");
    expect("detail" in fault ? fault.detail : "").toMatch(/^TLS failed/);
  });
});

describe("closing the source", () => {
  it("ends what is under way with `stopping`, and its connections", async () => {
    const { promise, resolve } = deferred();
    await using client = await startClient(() => resolve());
    const reading = client.readFault(EXTENT);
    await promise;
    const gone = client.server.connectionClosed();
    await client.source.close();
    expect((await reading).fault).toEqual({ code: "stopping" });
    await gone;
    expect(await client.fetchFault()).toEqual({ code: "stopping" });
  });

  it("also ends what only waits for a connection", async () => {
    const { promise, resolve } = deferred();
    await using client = await startClient(() => resolve(), { options: { connections: 1 } });
    const reads = [client.readFault(EXTENT), client.readFault(EXTENT)];
    await promise;
    await client.source.close();
    for (const read of reads) expect((await read).fault).toEqual({ code: "stopping" });
  });
});

describe("aborting a fetch", () => {
  it("closes its connection and passes the reason on", async () => {
    const { promise, resolve } = deferred();
    await using client = await startClient(() => resolve());
    const abort = new AbortController();
    const reading = client.readFault(EXTENT, { signal: abort.signal });
    await promise;
    const gone = client.server.connectionClosed();
    abort.abort(new DaemonError({ code: "cancelled", what: "the prefetch" }));
    expect((await reading).fault).toEqual({ code: "cancelled", what: "the prefetch" });
    await gone;
    expect(client.observed.failures).toEqual([]);
  });

  it("before it began makes no request", async () => {
    await using client = await startClient(right);
    const { fault } = await client.readFault(EXTENT, { signal: AbortSignal.abort() });
    expect(fault.code).toBe("cancelled");
    expect(client.server.requests).toHaveLength(0);
  });

  it("leaves the other requests of the connection pool alone", async () => {
    const { promise, resolve } = deferred();
    await using client = await startClient(
      inTurn(() => resolve(), right),
      { options: { connections: 1 } },
    );
    const abort = new AbortController();
    const first = faultFrom(client.read(EXTENT, { signal: abort.signal }));
    const second = client.read(EXTENT);
    await promise;
    abort.abort();
    expect((await first).code).toBe("cancelled");
    expect(sameBytes(await second, WANTED)).toBe(true);
  });
});

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
