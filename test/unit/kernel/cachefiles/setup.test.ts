// SPDX-License-Identifier: Apache-2.0
// Binding the device: the order of the limit commands under the kernel's own rule, and what each
// errno becomes.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type CullLimits,
  KERNEL_CULL_LIMITS,
  limitCommands,
  openBoundDevice,
  servesCompressed,
} from "../../../../src/kernel/cachefiles/setup.ts";
import { thrownBy } from "../../../support/fault-code.ts";
import { fuzzRuns } from "../../../support/fuzz-runs.ts";
import { DEVICE_FD, ScriptedNative } from "../../../support/scripted-native.ts";

const SETUP = {
  devicePath: "/dev/cachefiles",
  cacheDir: "/cache",
  tag: "erofsd",
  limits: KERNEL_CULL_LIMITS,
};

/** fs/cachefiles/daemon.c: every command is checked against the other values as they are. */
function applyLikeTheKernel(commands: readonly string[]): Record<string, number> {
  const now: Record<string, number> = { ...KERNEL_CULL_LIMITS };
  for (const command of commands) {
    const [, name = "", value] = /^([bf](?:run|cull|stop)) (\d+)%$/.exec(command) ?? [];
    now[name] = Number(value);
    for (const kind of ["b", "f"]) {
      const [stop, cull, run] = [now[`${kind}stop`], now[`${kind}cull`], now[`${kind}run`]];
      if (stop === undefined || cull === undefined || run === undefined) throw new Error(command);
      if (!(stop >= 0 && stop < cull && cull < run && run < 100)) {
        throw new Error(`EINVAL: ${command} makes ${stop} < ${cull} < ${run} of it`);
      }
    }
  }
  return now;
}

const rising = fc
  .uniqueArray(fc.integer({ min: 0, max: 99 }), { minLength: 3, maxLength: 3 })
  .map((values) => values.toSorted((a, b) => a - b));

test("any valid limits are reached by commands of which the kernel refuses none", () => {
  fc.assert(
    fc.property(
      rising,
      rising,
      ([bstop = 0, bcull = 0, brun = 0], [fstop = 0, fcull = 0, frun = 0]) => {
        const limits: CullLimits = { brun, bcull, bstop, frun, fcull, fstop };
        expect(applyLikeTheKernel(limitCommands(limits))).toEqual(limits);
      },
    ),
    { numRuns: fuzzRuns(2000) },
  );
});

test("the device is limited, given its directory and tag, and bound, in this order", () => {
  const native = new ScriptedNative();
  expect(openBoundDevice(native, { ...SETUP, limits: { ...KERNEL_CULL_LIMITS, brun: 20 } })).toBe(
    DEVICE_FD,
  );
  expect(native.commands.slice(0, 1)).toEqual(["brun 20%"]);
  expect(native.commands.slice(-3)).toEqual(["dir /cache", "tag erofsd", "bind ondemand"]);
  expect(native.closedFds).toEqual([]);
});

describe("what is refused", () => {
  test.each([
    ["ENOENT", "device_missing"],
    ["ENXIO", "device_missing"],
    ["EBUSY", "device_busy"],
    ["EACCES", "device_denied"],
    ["EPERM", "device_denied"],
    ["EMFILE", "syscall_failed"],
  ])("opening the device with %s is %s", (errnoName, code) => {
    const native = new ScriptedNative();
    native.refusals.set("/dev/cachefiles", errnoName);
    expect(thrownBy(() => openBoundDevice(native, SETUP))).toBe(code);
    expect(native.closedFds).toEqual([]);
  });

  test.each([
    ["EINVAL", "door_unsupported"],
    ["EOPNOTSUPP", "cache_dir_unsuitable"],
    ["ENOENT", "cache_dir_unsuitable"],
    ["ENOTDIR", "cache_dir_unsuitable"],
    ["EROFS", "cache_dir_unsuitable"],
    ["EBUSY", "cache_dir_unsuitable"],
    ["EIO", "cache_dir_unsuitable"],
  ])("binding with %s is %s, and the device is closed again", (errnoName, code) => {
    const native = new ScriptedNative();
    native.refusals.set("bind ondemand", errnoName);
    expect(thrownBy(() => openBoundDevice(native, SETUP))).toBe(code);
    expect(native.closedFds).toEqual([DEVICE_FD]);
  });

  test("any other command closes the device too", () => {
    const native = new ScriptedNative();
    native.refusals.set("tag erofsd", "EEXIST");
    expect(thrownBy(() => openBoundDevice(native, SETUP))).toBe("syscall_failed");
    expect(native.closedFds).toEqual([DEVICE_FD]);
  });
});

test.each([
  ["6.1.0-18-amd64", false],
  ["6.8.12", false],
  ["6.9.0", true],
  ["6.12.117-1", true],
  ["7.0.1", true],
  ["5.19.0", false],
  ["nonsense", false],
])("the kernel %s reads compressed files over fscache: %s", (release, served) => {
  expect(servesCompressed(release)).toBe(served);
});
