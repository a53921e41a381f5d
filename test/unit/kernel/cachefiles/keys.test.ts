// SPDX-License-Identifier: Apache-2.0
// The boundaries beyond which a key makes the kernel crash or mix two images up.

import { describe, expect, test } from "vitest";
import {
  cookieKeyProblem,
  volumeKeyOf,
  volumePartProblem,
} from "../../../../src/kernel/cachefiles/keys.ts";

describe("a cookie key", () => {
  test("of plain characters has up to 252 bytes", () => {
    expect(cookieKeyProblem("a".repeat(252))).toBeUndefined();
    expect(cookieKeyProblem("a".repeat(253))).toContain("252");
  });

  test.each([
    ["a slash", "/"],
    ["a blank", " "],
    ["a tab", "\t"],
    ["a control character", "\u0001"],
  ])("with %s has up to 189 bytes", (_what, odd) => {
    expect(cookieKeyProblem(odd + "a".repeat(188))).toBeUndefined();
    expect(cookieKeyProblem(odd + "a".repeat(189))).toContain("189");
    expect(cookieKeyProblem(`${"a".repeat(188)}${odd}a`)).toContain("189");
  });

  test("is counted in UTF-8 bytes, not in characters", () => {
    expect(cookieKeyProblem(`${"é".repeat(94)}a`)).toBeUndefined(); // 189 bytes
    expect(cookieKeyProblem("é".repeat(95))).toContain("190");
    expect(cookieKeyProblem("🙂".repeat(48))).toContain("192");
  });

  test("keeps every visible ASCII character but the slash out of the encoding", () => {
    for (let code = 0x21; code <= 0x7f; code += 1) {
      const key = String.fromCharCode(code) + "a".repeat(251);
      expect(cookieKeyProblem(key) === undefined, key.slice(0, 1)).toBe(code !== 0x2f);
    }
  });

  test("is neither empty nor holds a NUL", () => {
    expect(cookieKeyProblem("")).toBe("it is empty");
    expect(cookieKeyProblem("a\0b")).toContain("NUL");
  });
});

describe("a volume part", () => {
  test("has up to 248 bytes, counted in UTF-8", () => {
    expect(volumePartProblem("d".repeat(248))).toBeUndefined();
    expect(volumePartProblem("d".repeat(249))).toContain("248");
    expect(volumePartProblem("é".repeat(124))).toBeUndefined();
    expect(volumePartProblem("é".repeat(125))).toContain("250");
  });

  test("holds no slash, no NUL and something", () => {
    expect(volumePartProblem("a/b")).toContain("/");
    expect(volumePartProblem("a\0")).toContain("NUL");
    expect(volumePartProblem("")).toBe("it is empty");
  });

  test("becomes the volume key behind the kernel's prefix", () => {
    expect(volumeKeyOf("mine")).toBe("erofs,mine");
  });
});
