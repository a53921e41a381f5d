// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { RepeatedReads } from "../../../src/source/repeated-reads.ts";
import { FakeClock } from "../../support/fake-clock.ts";

it("notices that some bytes are asked for again soon, once", () => {
  const reads = new RepeatedReads(new FakeClock());
  reads.served("a", { offset: 100, length: 100 });
  expect(reads.asked("b", { offset: 100, length: 100 })).toBe(false);
  expect(reads.asked("a", { offset: 0, length: 100 })).toBe(false);
  expect(reads.asked("a", { offset: 200, length: 100 })).toBe(false);
  expect(reads.asked("a", { offset: 199, length: 1 })).toBe(true);
  expect(reads.asked("a", { offset: 199, length: 1 })).toBe(false);
});

it("forgets after a minute, and the oldest of very many", async () => {
  const clock = new FakeClock();
  const reads = new RepeatedReads(clock);
  reads.served("a", { offset: 0, length: 1 });
  await clock.advance(60_000);
  expect(reads.asked("a", { offset: 0, length: 1 })).toBe(false);
  for (let offset = 0; offset <= 256; offset += 1) reads.served("a", { offset, length: 1 });
  expect(reads.asked("a", { offset: 0, length: 1 })).toBe(false);
  expect(reads.asked("a", { offset: 1, length: 1 })).toBe(true);
});
