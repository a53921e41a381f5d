// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { laterObserver } from "../../../../src/source/registry/later-observer.ts";
import type { RegistryObserver } from "../../../../src/source/registry/options.ts";

function recorder(): { to: Required<RegistryObserver>; told: unknown[][] } {
  const told: unknown[][] = [];
  const note =
    (name: string) =>
    (...of: unknown[]): void => {
      told.push([name, ...of]);
    };
  const names = {
    request: note("request"),
    bytes: note("bytes"),
    failure: note("failure"),
    firstByte: note("firstByte"),
    transfer: note("transfer"),
    hedge: note("hedge"),
    peerRace: note("peerRace"),
    peerFailure: note("peerFailure"),
    breaker: note("breaker"),
  };
  return { to: names, told };
}

test("an observer that comes late is told what happened before, in order, and then the rest", () => {
  const observer = laterObserver();
  observer.request("r.example", "direct");
  observer.bytes("r.example", 10, "direct");
  const { to, told } = recorder();
  observer.arrived(to);
  observer.failure("r.example", "registry_timeout");
  expect(told).toEqual([
    ["request", "r.example", "direct"],
    ["bytes", "r.example", 10, "direct"],
    ["failure", "r.example", "registry_timeout"],
  ]);
});

test("of more than 4,096 events before it comes, the first are told", () => {
  const observer = laterObserver();
  for (let at = 0; at < 5_000; at += 1) observer.bytes("r.example", at, "direct");
  const { to, told } = recorder();
  observer.arrived(to);
  expect([told.length, told.at(-1)]).toEqual([4_096, ["bytes", "r.example", 4_095, "direct"]]);
});
