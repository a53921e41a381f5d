// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { parseChallenges } from "../../../../src/source/registry/www-authenticate.ts";

function plain(header: string): readonly (readonly [string, Record<string, string>])[] {
  return parseChallenges(header).map(
    ({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)] as const,
  );
}

it("reads the usual Bearer challenge", () => {
  const header =
    'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:app:pull,push"';
  expect(plain(header)).toEqual([
    [
      "bearer",
      {
        realm: "https://auth.example/token",
        service: "registry.example",
        scope: "repository:app:pull,push",
      },
    ],
  ]);
});

it("tells several challenges in one header apart", () => {
  expect(plain('Basic realm="a, b", Bearer realm="c" , error=invalid_token, Negotiate')).toEqual([
    ["basic", { realm: "a, b" }],
    ["bearer", { realm: "c", error: "invalid_token" }],
    ["negotiate", {}],
  ]);
  expect(plain("Negotiate YWJj==, Bearer realm=x")).toEqual([
    ["negotiate", {}],
    ["bearer", { realm: "x" }],
  ]);
});

it("undoes quoting and ignores the case of names", () => {
  expect(plain(String.raw`BEARER Realm = "a\"b\\c"`)).toEqual([["bearer", { realm: 'a"b\\c' }]]);
});

it("keeps the first of two equal parameters", () => {
  expect(plain("Bearer realm=a, realm=b")).toEqual([["bearer", { realm: "a" }]]);
});

it.each(["", " , ,", "=", '"Bearer"', "\u0000"])("finds nothing in %j", (header) => {
  expect(plain(header)).toEqual([]);
});

it("stops at a quote that never ends", () => {
  expect(plain('Bearer realm="https://auth.example')).toEqual([["bearer", {}]]);
});
