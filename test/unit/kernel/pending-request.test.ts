// SPDX-License-Identifier: Apache-2.0
// One unanswered request: it takes one answer.

import { describe, expect, test } from "vitest";
import { PendingRequest } from "../../../src/kernel/pending-request.ts";

function pending(): { request: PendingRequest; sent: string[]; answered: () => number } {
  const sent: string[] = [];
  let count = 0;
  const request = new PendingRequest("READ 1", () => {
    count += 1;
  });
  return { request, sent, answered: () => count };
}

describe("a pending request", () => {
  test("sends its first answer and throws at a second", () => {
    const { request, sent, answered } = pending();
    expect(request.answered).toBe(false);
    request.answer(() => sent.push("first"));
    expect(() => request.answer(() => sent.push("second"))).toThrow("READ 1 answered twice");
    expect([sent, request.answered, answered()]).toEqual([["first"], true, 1]);
  });

  test("that was withdrawn sends nothing and throws nothing", () => {
    const { request, sent, answered } = pending();
    request.withdraw();
    request.withdraw();
    request.answer(() => sent.push("late"));
    expect([sent, request.answered, answered()]).toEqual([[], true, 1]);
  });

  test("that the door has answered itself sends only that", () => {
    const { request, sent, answered } = pending();
    request.preempt(() => sent.push("door"));
    request.preempt(() => sent.push("door again"));
    request.answer(() => sent.push("late"));
    expect([sent, request.answered, answered()]).toEqual([["door"], true, 1]);
  });

  test("that was answered is not preempted", () => {
    const { request, sent } = pending();
    request.answer(() => sent.push("first"));
    request.preempt(() => sent.push("door"));
    expect(sent).toEqual(["first"]);
  });
});
