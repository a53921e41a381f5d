// SPDX-License-Identifier: Apache-2.0
// Two mirrors and a registry that fail in every way at random: what is delivered is always a
// prefix of the right bytes, each once, and whole whenever the registry's last word allows it.
import { expect, it } from "vitest";
import { type Clock, systemClock } from "../../../../src/platform/clock.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { mirrorAt } from "../../../support/mirrored-client.ts";
import { CONTENT, startClient } from "../../../support/registry-client.ts";
import {
  type Respond,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";
import { seededRandom } from "../../../support/seeded-random.ts";

const READS = 300;
const HASTE = 100;

function chaos(random: () => number, failing: number): Respond {
  return (request, socket) => {
    if (!request.headers.has("range")) {
      socket.write(response(401));
      return;
    }
    if (random() >= failing) {
      socket.write(rightAnswer(request, CONTENT));
      return;
    }
    const whole = rightAnswer(request, CONTENT);
    const ways: readonly (() => void)[] = [
      () => socket.end(whole.subarray(0, Math.floor(random() * whole.length))),
      () => socket.resetAndDestroy(),
      () => socket.write(response(500)),
      () => socket.write(response(404)),
      () => socket.write(response(403)),
      () => socket.write(response(200, {}, CONTENT)),
      () => socket.write(response(206, { "content-range": "bytes 0-9/10" }, whole.subarray(0, 10))),
      () => socket.write(response(302, { location: `http://${request.headers.get("host")}/x` })),
      () => socket.end("garbage\r\n\r\n"),
    ];
    ways[Math.floor(random() * ways.length)]?.();
  };
}

it.each([1, 2, 3, 4])("with seed %d", async (seed) => {
  const seeded = seededRandom(seed);
  const random = (): number => seeded.between(0, 2 ** 30 - 1) / 2 ** 30;
  // Doubts pass between two reads, and pings come soon: mirrors are asked again and again.
  let skewMs = 0;
  const clock: Clock = {
    nowMs: () => systemClock.nowMs() + skewMs,
    after: (delayMs, run) => systemClock.after(delayMs / HASTE, run),
  };
  const [one, two] = [
    await startScriptedServer(chaos(random, 0.7)),
    await startScriptedServer(chaos(random, 0.4)),
  ];
  let registryFails = 0;
  const registry: Respond = (request, socket) => {
    const isLost = request.headers.has("range") && random() < registryFails;
    if (isLost) socket.write(response(502));
    else if (request.headers.has("range")) socket.write(rightAnswer(request, CONTENT));
    else socket.write(response(200));
  };
  await using client = await startClient(registry, {
    upstreams: (_, plain) => Promise.resolve([mirrorAt(one.host), mirrorAt(two.host), plain]),
    options: { attemptsMax: 3, headersTimeoutMs: 900_000, stallTimeoutMs: 900_000 },
    clock,
  });
  let failed = 0;
  for (let read = 0; read < READS; read += 1) {
    skewMs += 700_000;
    registryFails = read % 3 === 0 ? 0.5 : 0;
    const offset = Math.floor(random() * (CONTENT.length - 1));
    const length = 1 + Math.floor(random() * Math.min(20_000, CONTENT.length - offset - 1));
    const wanted = CONTENT.subarray(offset, offset + length);
    const pieces: Uint8Array[] = [];
    const reading = client.source.readRange(
      client.blob,
      { offset, length },
      (piece) => pieces.push(Uint8Array.from(piece)),
      { signal: new AbortController().signal, deadlineMs: clock.nowMs() + 1_800_000 },
    );
    const failure = await reading.then(
      () => undefined,
      (error: unknown) => String(error),
    );
    const isWhole = failure === undefined;
    const got = Uint8Array.from(Buffer.concat(pieces));
    expect(sameBytes(got, wanted.subarray(0, got.length))).toBe(true);
    if (isWhole) expect(got).toHaveLength(length);
    else failed += 1;
    if (registryFails === 0) expect(failure).toBe(undefined);
  }
  expect(failed).toBeLessThan(READS / 3);
  expect(one.requests.length + two.requests.length).toBeGreaterThan(READS / 3);
  await one.close();
  await two.close();
});
