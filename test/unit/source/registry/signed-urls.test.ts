// SPDX-License-Identifier: Apache-2.0
// A registry that redirects to storage elsewhere, with URLs that are good for some time.
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { AccessBook } from "../../../../src/source/registry/access.ts";
import { parseExpiry } from "../../../../src/source/registry/signed-urls.ts";
import { DaemonError } from "../../../../src/errors.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../support/registry-client.ts";
import {
  type Respond,
  type ScriptedServer,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";

const NOW = "Fri, 20 Nov 2026 10:00:00 GMT";
const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

let storage: ScriptedServer;
let answerOfStorage: Respond;

beforeEach(async () => {
  answerOfStorage = right;
  storage = await startScriptedServer((request, socket) => answerOfStorage(request, socket));
});

afterEach(async () => {
  await storage.close();
});

interface Redirecting {
  readonly client: ClientFixture;
  readonly clock: FakeClock;
  read(offset: number): Promise<void>;
  /** Requests so far: to the registry, to the storage. */
  counts(): readonly [number, number];
}

async function startRedirecting(
  query = "X-Amz-Date=20261120T100000Z&X-Amz-Expires=600",
  respond?: Respond,
): Promise<Redirecting & AsyncDisposable> {
  const clock = new FakeClock();
  const redirect: Respond = (request, socket) => {
    const location = `http://${storage.host}/bucket?${query}&X-Amz-Signature=topsecret${request.index}`;
    socket.write(response(307, { location, date: NOW }));
  };
  const client = await startClient(respond ?? redirect, { clock });
  return {
    client,
    clock,
    async read(offset) {
      const bytes = await client.read({ offset, length: 100 });
      expect(sameBytes(bytes, CONTENT.subarray(offset, offset + 100))).toBe(true);
    },
    counts: () => [client.server.requests.length, storage.requests.length],
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}

describe("a redirect to storage", () => {
  it("is followed once, and later ranges go straight there", async () => {
    await using made = await startRedirecting();
    for (const offset of [0, 100, 200]) await made.read(offset);
    expect(made.counts()).toEqual([1, 3]);
    expect(storage.requests.every(({ path }) => path.endsWith("topsecret0"))).toBe(true);
  });

  it.each([
    ["X-Amz-Date=20261120T100000Z&X-Amz-Expires=600", 570_000],
    ["X-Goog-Date=20261120T100000Z&X-Goog-Expires=600", 570_000],
    ["se=2026-11-20T10%3A10%3A00Z&sig=x", 570_000],
    [`Expires=${Date.UTC(2026, 10, 20, 10, 10) / 1000}`, 570_000],
    ["X-Amz-Date=20261120T100000Z&X-Amz-Expires=20", 16_000],
    ["nothing=said", 48_000],
  ])("with %s is good for %d ms", async (query, goodMs) => {
    await using made = await startRedirecting(query);
    await made.read(0);
    await made.clock.advance(goodMs - 1);
    await made.read(100);
    expect(made.counts()).toEqual([1, 2]);
    await made.clock.advance(1);
    await made.read(200);
    expect(made.counts()).toEqual([2, 3]);
  });

  it("that has expired already is not kept", async () => {
    await using made = await startRedirecting("X-Amz-Date=20261120T090000Z&X-Amz-Expires=600");
    await made.read(0);
    await made.read(100);
    expect(made.counts()).toEqual([2, 2]);
  });

  it.each([400, 401, 403, 404, 410, 302])(
    "that is refused with %d is asked for anew, which is no failed try",
    async (status) => {
      await using made = await startRedirecting();
      await made.read(0);
      answerOfStorage = (request, socket) => {
        if (request.path.endsWith("topsecret0")) socket.write(response(status, { location: "/x" }));
        else right(request, socket);
      };
      const { client } = made;
      const bytes = await client.read({ offset: 100, length: 100 }, { attemptsMax: 1 });
      expect(bytes).toHaveLength(100);
      expect(made.counts()).toEqual([2, 3]);
      expect(client.observed.failures).toEqual([]);
    },
  );

  it("whose storage fails is a failed try, and the next one asks the registry", async () => {
    await using made = await startRedirecting();
    await made.read(0);
    const cut: Respond = (request, socket) => {
      if (request.path.endsWith("topsecret0")) socket.end();
      else right(request, socket);
    };
    answerOfStorage = cut;
    const reading = made.client.read({ offset: 100, length: 100 });
    await made.clock.timerSet((delayMs) => delayMs === 0);
    await made.clock.advance(0);
    expect(await reading).toHaveLength(100);
    expect(made.client.observed.failures).toEqual(["registry_unreachable"]);
    expect(made.counts()[0]).toBe(2);
  });

  it("never shows its URL, nor takes a password along", async () => {
    const access = new AccessBook();
    answerOfStorage = (_, socket) => socket.write(response(500));
    await using client = await startClient(
      (request, socket) => {
        const location = `http://${storage.host}/bucket?sig=topsecret`;
        if (request.headers.get("authorization") === undefined) {
          socket.write(response(401, { "www-authenticate": 'Basic realm="x"' }));
        } else socket.write(response(307, { location }));
      },
      { access },
    );
    access.set(client.server.host, "team/app", {
      credentials: { username: "alice", password: "wordsecret" },
    });
    const { fault } = await client.readFault({ offset: 0, length: 100 });
    expect(fault).toMatchObject({ code: "registry_failed", status: 500, host: storage.host });
    const told = JSON.stringify([fault, new DaemonError(fault).message, client.logged]);
    expect(told).not.toMatch(/topsecret|wordsecret/);
    expect(storage.requests.map(({ headers }) => headers.get("authorization"))).not.toContain(
      expect.anything(),
    );
  });
});

it.each([
  "http://s/?X-Amz-Date=20261120T100000Z",
  "http://s/?X-Amz-Date=20269920T100000Z&X-Amz-Expires=600",
  "http://s/?X-Amz-Date=20261120T100000Z&X-Amz-Expires=-600",
  "http://s/?Expires=soon",
  "http://s/?Expires=12",
  "http://s/?se=never",
  "http://s/",
])("%s says nothing of when it expires", (url) => {
  expect(parseExpiry(new URL(url))).toBe(undefined);
});
