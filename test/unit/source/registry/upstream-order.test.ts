// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { DaemonError, type Fault } from "../../../../src/errors.ts";
import { registryUpstream } from "../../../../src/source/registry/upstream.ts";
import type { Standing } from "../../../../src/source/registry/upstream-health.ts";
import {
  type Prospect,
  leadsToNext,
  planRound,
} from "../../../../src/source/registry/upstream-order.ts";

const both = { pull: true, resolve: true };
const [one, two] = ["one", "two"].map((name) => ({
  ...registryUpstream(name, "https"),
  isMirror: true,
}));
const last = registryUpstream("last", "https");
const all = [one, two, last].flatMap((upstream) => upstream ?? []);

function order(prospects: Readonly<Record<string, Partial<Prospect>>>, upstreams = all) {
  const prospectOf = ({ name }: { readonly name: string }): Prospect => ({
    standing: "ready",
    isDoubted: false,
    ...prospects[name],
  });
  return planRound(upstreams, "pull", prospectOf).map(({ name }) => name);
}

const resting: { standing: Standing } = { standing: "resting" };

it("asks mirrors as they are listed, then the registry", () => {
  expect(order({})).toEqual(["one", "two", "last"]);
});

it("leaves out mirrors that rest, while another upstream does not", () => {
  expect(order({ one: resting })).toEqual(["two", "last"]);
  expect(order({ one: { standing: "trial" } })).toEqual(["one", "two", "last"]);
});

it("asks a registry that rests after all others, for theirs is not the last word", () => {
  expect(order({ last: resting })).toEqual(["one", "two", "last"]);
  expect(order({ one: { isDoubted: true }, last: resting })).toEqual(["two", "one", "last"]);
  expect(order({ one: resting, last: resting })).toEqual(["two", "last"]);
});

it("asks all when all rest", () => {
  expect(order({ one: resting, two: resting, last: resting })).toEqual(["one", "two", "last"]);
});

it("asks mirrors that are doubted after the registry", () => {
  expect(order({ one: { isDoubted: true } })).toEqual(["two", "last", "one"]);
});

it("asks nobody for what nobody may do", () => {
  const none = all.map((each) => ({ ...each, capabilities: { ...both, pull: false } }));
  expect(order({}, none)).toEqual([]);
});

it.each<[Fault, boolean]>([
  [{ code: "registry_unreachable", host: "x", detail: "y" }, true],
  [{ code: "registry_timeout", host: "x", detail: "y" }, true],
  [{ code: "registry_throttled", host: "x", retryAfterMs: undefined }, true],
  [{ code: "blob_not_found", host: "x", repository: "y", digest: "z" }, true],
  [{ code: "cancelled", what: "x" }, false],
  [{ code: "deadline_exceeded", what: "x", timeoutMs: 1 }, false],
  [{ code: "stopping" }, false],
])("after %j: the next one is asked is %s", (fault, isAsked) => {
  expect(leadsToNext(new DaemonError(fault))).toBe(isAsked);
});
