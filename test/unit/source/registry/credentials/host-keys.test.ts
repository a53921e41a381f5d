// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import {
  bestMatch,
  canonicalHost,
  parseHostKey,
} from "../../../../../src/source/registry/credentials/host-keys.ts";

describe("a key", () => {
  it.each([
    ["registry.example", "registry.example", ""],
    ["Registry.Example:5000", "registry.example:5000", ""],
    ["registry.example:443", "registry.example", ""],
    ["[::1]:5000", "[::1]:5000", ""],
    ["https://registry.example", "registry.example", ""],
    ["http://registry.example:5000/v2/", "registry.example:5000", ""],
    ["registry.example/v1/", "registry.example", ""],
    ["https://index.docker.io/v1/", "docker.io", ""],
    ["index.docker.io", "docker.io", ""],
    ["registry-1.docker.io", "docker.io", ""],
    ["docker.io/library", "docker.io", "library"],
    ["quay.io/team/app", "quay.io", "team/app"],
    ["quay.io/team/", "quay.io", "team"],
  ])("%s is for %s and %j in it", (text, host, path) => {
    expect(parseHostKey(text)).toEqual({ host, path });
  });

  it.each([
    "",
    "/",
    "https://",
    "user:secret@host",
    "a b",
    "host/UPPER",
    "host:port",
    "-a",
    "h:443:443",
    "h:5000:443",
  ])("%j names no host", (text) => {
    expect(parseHostKey(text)).toBeUndefined();
  });
});

describe("a repository", () => {
  const entries = ["h", "h/team", "h/team/app", "other/team/app/more"].map((text) => ({
    text,
    ...(parseHostKey(text) ?? { host: "", path: "" }),
  }));

  it.each([
    ["team/app", "h/team/app"],
    ["team/app/sub", "h/team/app"],
    ["team/other", "h/team"],
    ["team", "h/team"],
    ["teammate/app", "h"],
  ])("%s is opened by the narrowest key that covers it", (repository, key) => {
    expect(bestMatch(entries, { host: "h", repository })?.text).toBe(key);
  });

  it("is not opened by keys of other hosts, ports or narrower paths", () => {
    expect(bestMatch(entries, { host: "h:5000", repository: "team/app" })).toBeUndefined();
    expect(bestMatch(entries, { host: "other", repository: "team/app" })).toBeUndefined();
  });

  it("at Docker Hub has one host, whatever it is called", () => {
    const names = ["docker.io", "index.docker.io", "Registry-1.Docker.io"];
    expect(new Set(names.map((name) => canonicalHost(name)))).toEqual(new Set(["docker.io"]));
  });
});
