// SPDX-License-Identifier: Apache-2.0
// pwrite(2) interrupted, short, and without progress, by a preloaded fake (pwrite-faults.c);
// and a real short write, at a process's file size limit. Needs the C compiler that built the
// addon.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nativeDirectory } from "./addon.ts";

const { EFBIG, EIO } = constants.errno;
const child = fileURLToPath(new URL("pwrite-child.mjs", import.meta.url));
const source = fileURLToPath(new URL("pwrite-faults.c", import.meta.url));

let directory = "";
let library = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "erofsd-pwrite-"));
  library = join(directory, "faults.so");
  execFileSync("cc", ["-shared", "-fPIC", "-o", library, source]);
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

interface Outcome {
  readonly result: number;
  /** `length@offset` of each pwrite(2), in order. */
  readonly calls: string[];
  readonly intact: boolean;
}

function writeWith(faults: string, granule: number): Outcome {
  const path = join(directory, `file-${faults}-${granule}`);
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    [child, nativeDirectory, path, String(granule)],
    { env: { ...process.env, LD_PRELOAD: library, PWRITE_FAULTS: faults }, encoding: "utf8" },
  );
  expect(status).toBe(0);
  const content = readFileSync(path);
  const intact = content.every((byte, i) => byte === ((i * 31 + (i >> 12)) & 0xff));
  const calls = stderr.split("\n").filter((line) => line !== "");
  return { result: Number(stdout), calls, intact: intact && content.length === 16_384 };
}

describe("a pool's pwrite", () => {
  test("is repeated when a signal interrupts it", () => {
    expect(writeWith("eee", 4096)).toEqual({
      result: 16_384,
      calls: ["16384@0", "16384@0", "16384@0", "16384@0"],
      intact: true,
    });
  });

  test("goes on where a short write ended", () => {
    expect(writeWith("hoe", 1)).toEqual({
      result: 16_384,
      calls: ["16384@0", "8192@8192", "4095@12289", "4095@12289"],
      intact: true,
    });
  });

  test("goes on at the last whole block when blocks are what is written", () => {
    expect(writeWith("o", 4096)).toEqual({
      result: 16_384,
      calls: ["16384@0", "8192@8192"],
      intact: true,
    });
  });

  test("is -EIO when nothing is written, and when not a whole block is", () => {
    expect(writeWith("z", 1)).toMatchObject({ result: -EIO, calls: ["16384@0"] });
    expect(writeWith("hhh", 4096)).toMatchObject({
      result: -EIO,
      calls: ["16384@0", "8192@8192", "4096@12288"],
    });
  });

  test("that reaches the file size limit fails, after what fitted was written", () => {
    const path = join(directory, "limited");
    // dash counts in 512 bytes: 10 KiB. Pool threads block SIGXFSZ, so the errno comes through.
    const command = 'ulimit -f 20; exec "$0" "$@"';
    const args = ["-c", command, process.execPath, child, nativeDirectory, path, "1"];
    const { stdout, status, signal } = spawnSync("/bin/sh", args, { encoding: "utf8" });
    expect({ status, signal, result: Number(stdout) }).toEqual({
      status: 0,
      signal: null,
      result: -EFBIG,
    });
    expect(readFileSync(path).length).toBe(10_240);
  });
});
