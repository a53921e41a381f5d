// SPDX-License-Identifier: Apache-2.0
// Ranges that follow one another come with one request. Sockets are real, time passes when the test
// says so.
import { expect, it } from "vitest";
import { LongRequest } from "../../../../src/source/registry/long-request.ts";
import type { FetchOptions } from "../../../../src/source/source.ts";
import type { Extent } from "../../../../src/units.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../support/registry-client.ts";
import { type Respond, rightAnswer } from "../../../support/scripted-server.ts";
import { turns } from "../../../support/turns.ts";

const AHEAD: Partial<FetchOptions> = { urgency: "ahead", next: 1_000_000 };
/** That a request waits for somebody to go on with it. */
const PAUSE_MS = 200;

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));

const part = (index: number): Extent => ({ offset: index * 30_000, length: 30_000 });
const isRight = (bytes: Uint8Array, { offset, length }: Extent): boolean =>
  sameBytes(bytes, CONTENT.subarray(offset, offset + length));
const rangesOf = ({ server }: ClientFixture) =>
  server.requests.map(({ headers }) => headers.get("range"));

it("brings what is asked for behind it, whenever that is", async () => {
  const clock = new FakeClock();
  await using client = await startClient(right, { clock });
  let joined = 0;
  const options = { ...AHEAD, onJoined: () => (joined += 1) };
  const [first, second] = [client.read(part(0), options), client.read(part(1), options)];
  expect([isRight(await first, part(0)), isRight(await second, part(1))]).toEqual([true, true]);
  await clock.advance(PAUSE_MS - 1);
  expect(isRight(await client.read(part(2), options), part(2))).toBe(true);
  expect(rangesOf(client)).toEqual(["bytes=0-99999"]);
  expect(joined).toBe(2);
  const rest = { offset: 90_000, length: 10_000 };
  expect(isRight(await client.read(rest, options), rest)).toBe(true);
  expect(rangesOf(client)).toHaveLength(1);
  await client.source.close();
  expect(clock.pendingCount).toBe(0);
});

it("is given up when nobody goes on with it for a while", async () => {
  const clock = new FakeClock();
  await using client = await startClient(right, { clock });
  await client.read(part(0), AHEAD);
  const gone = client.server.connectionClosed();
  await clock.advance(PAUSE_MS);
  await gone;
  expect(isRight(await client.read(part(1), AHEAD), part(1))).toBe(true);
  expect(rangesOf(client)).toEqual(["bytes=0-99999", "bytes=30000-99999"]);
  await client.source.close();
  expect(clock.pendingCount).toBe(0);
});

it("is for nobody who waits, nor for what lies elsewhere", async () => {
  await using client = await startClient(right);
  await client.read(part(0), AHEAD);
  expect(isRight(await client.read(part(1)), part(1))).toBe(true);
  expect(isRight(await client.read(part(2), { urgency: "ahead" }), part(2))).toBe(true);
  expect(rangesOf(client)).toEqual(["bytes=0-99999", "bytes=30000-59999", "bytes=60000-89999"]);
});

it("is as long as it is likely to be needed", async () => {
  await using client = await startClient(right);
  await client.read(part(0), { urgency: "prefetch", next: 20_000 });
  // Of the second part it brings a piece only.
  expect(isRight(await client.read(part(1), { urgency: "prefetch" }), part(1))).toBe(true);
  expect(rangesOf(client)).toEqual(["bytes=0-49999", "bytes=50000-59999"]);
});

it("that breaks lets nobody down", async () => {
  let isFirst = true;
  await using client = await startClient((request, socket) => {
    const answer = rightAnswer(request, CONTENT);
    if (isFirst) socket.end(answer.subarray(0, -60_000));
    else socket.write(answer);
    isFirst = false;
  });
  const parts = [0, 1, 2].map(part);
  const got = await Promise.all(parts.map((one) => client.read(one, AHEAD)));
  expect(got.map((bytes, at) => isRight(bytes, part(at)))).toEqual([true, true, true]);
  expect(rangesOf(client)).toEqual(["bytes=0-99999", "bytes=40000-59999", "bytes=60000-89999"]);
});

it("that never began is tried again by who made it, and by who joined", async () => {
  let isFirst = true;
  await using client = await startClient((request, socket) => {
    if (isFirst) socket.end();
    else right(request, socket);
    isFirst = false;
  });
  const got = await Promise.all([client.read(part(0), AHEAD), client.read(part(1), AHEAD)]);
  expect(got.map((bytes, at) => isRight(bytes, part(at)))).toEqual([true, true]);
});

it("ends when somebody leaves, and who comes behind him goes on alone", async () => {
  const silent: Respond = () => undefined;
  let respond = silent;
  await using client = await startClient((request, socket) => respond(request, socket));
  const abort = new AbortController();
  const first = client.readFault(part(0), { ...AHEAD, signal: abort.signal });
  const second = client.read(part(1), AHEAD);
  while (client.server.requests.length === 0) await turns(1);
  respond = right;
  abort.abort();
  expect((await first).fault.code).toBe("cancelled");
  expect(isRight(await second, part(1))).toBe(true);
  expect(rangesOf(client)).toEqual(["bytes=0-99999", "bytes=30000-59999"]);
});

it("does not outlive its source", async () => {
  const clock = new FakeClock();
  await using client = await startClient(() => undefined, { clock });
  const faults = [0, 1].map((at) => client.readFault(part(at), AHEAD));
  while (client.server.requests.length === 0) await turns(1);
  await client.source.close();
  const codes = (await Promise.all(faults)).map(({ fault }) => fault.code);
  expect(codes).toEqual(["stopping", "stopping"]);
  expect(clock.pendingCount).toBe(0);
});

it("is one of two: a third range comes with a request of its own", async () => {
  await using client = await startClient(right);
  const length = 20_000;
  for (const offset of [0, 30_000, 60_000]) await client.read({ offset, length }, AHEAD);
  expect(rangesOf(client)).toEqual(["bytes=0-99999", "bytes=30000-99999", "bytes=60000-79999"]);
});

it("takes no byte for another when more comes than may", async () => {
  const wanted = { offset: 0, length: 100 };
  const request = new LongRequest({ clock: new FakeClock(), wanted, onOver: () => undefined });
  const { signal } = new AbortController();
  void request.join({ end: 10, onPiece: () => undefined, signal });
  request.take(CONTENT.subarray(0, 20));
  expect(() => request.take(CONTENT.subarray(20, 30))).toThrow(
    "nothing comes while it is held back",
  );
});
