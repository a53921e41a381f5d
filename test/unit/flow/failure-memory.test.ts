// SPDX-License-Identifier: Apache-2.0
// What failed a moment ago answers for a second, for the bytes it covers, and for no others.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { FailureMemory } from "../../../src/flow/failure-memory.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { codeOf } from "../../support/fault-code.ts";
import { blocks } from "../../support/flow-rig.ts";

const error = new DaemonError({ code: "registry_unreachable", host: "r", detail: "down" });

describe("a failure", () => {
  test("answers for any extent that shares a byte with it, naming its cause", () => {
    const memory = new FailureMemory(new FakeClock());
    memory.remember(blocks(4, 8), error);
    for (const asked of [blocks(0, 5), blocks(7, 9), blocks(5, 6), blocks(0, 20)]) {
      const found = memory.find([blocks(30, 31), asked]);
      expect([codeOf(found), found?.cause]).toEqual(["failed_recently", error]);
    }
    expect(memory.find([blocks(0, 4), blocks(8, 9)])).toBeUndefined();
  });

  test("is forgotten after a second", async () => {
    const clock = new FakeClock();
    const memory = new FailureMemory(clock);
    memory.remember(blocks(4, 8), error);
    await clock.advance(999);
    expect(memory.find([blocks(4, 8)])).toBeDefined();
    await clock.advance(1);
    expect(memory.find([blocks(4, 8)])).toBeUndefined();
  });

  test("of nothing is not remembered", () => {
    const memory = new FailureMemory(new FakeClock());
    memory.remember(blocks(4, 4), error);
    expect(memory.find([blocks(0, 9)])).toBeUndefined();
  });

  test("is pushed out by newer ones: the memory is bounded", () => {
    const memory = new FailureMemory(new FakeClock());
    for (let i = 0; i < 300; i += 1) memory.remember(blocks(i, i + 1), error);
    expect(memory.find([blocks(0, 1)])).toBeUndefined();
    expect(memory.find([blocks(299, 300)])).toBeDefined();
  });
});
