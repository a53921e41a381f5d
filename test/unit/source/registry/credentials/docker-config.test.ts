// SPDX-License-Identifier: Apache-2.0
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { parseDockerConfig } from "../../../../../src/source/registry/credentials/docker-config.ts";
import { basicAuthorization } from "../../../../../src/source/registry/credentials/grant.ts";

const SECRET = "the-secret-9";

function auth(user: string, password: string): string {
  return Buffer.from(`${user}:${password}`).toString("base64");
}

function grantsOf(auths: object) {
  const { config, problems } = parseDockerConfig(JSON.stringify({ auths }));
  return { grants: config?.entries.map(({ grant }) => grant) ?? [], problems };
}

describe("an entry of auths", () => {
  it.each<[string, object]>([
    ["auth", { auth: auth("alice", SECRET) }],
    ["auth filled up with zero bytes", { auth: auth("alice", `${SECRET}\0\0`) }],
    ["username and password", { username: "alice", password: SECRET }],
    ["auth, which counts before the others", { auth: auth("alice", SECRET), username: "bob" }],
  ])("gives a password by %s", (_, entry) => {
    const { grants, problems } = grantsOf({ "registry.example": entry });
    expect(grants.map((grant) => grant.basicAuthorization)).toEqual([
      basicAuthorization("alice", SECRET),
    ]);
    expect(problems).toEqual([]);
  });

  it("keeps colons in a password", () => {
    const { grants } = grantsOf({ h: { auth: auth("alice", "a:b:c") } });
    expect(grants[0]?.basicAuthorization).toBe(basicAuthorization("alice", "a:b:c"));
  });

  it.each<[string, object, string | undefined]>([
    ["beside a user", { auth: auth("alice", ""), identitytoken: SECRET }, "alice"],
    ["alone", { identitytoken: SECRET }, undefined],
    ["as the password of <token>", { auth: auth("<token>", SECRET) }, undefined],
  ])("gives an identity token %s", (_, entry, username) => {
    const [grant] = grantsOf({ h: entry }).grants;
    expect(grant?.identityToken).toBe(SECRET);
    expect(grant?.username).toBe(username);
    expect(grant?.basicAuthorization).toBeUndefined();
  });

  it("gives a token that is sent as it is", () => {
    const [grant] = grantsOf({ h: { registrytoken: SECRET } }).grants;
    expect(grant?.bearerAuthorization).toBe(`Bearer ${SECRET}`);
  });

  it.each<[string, object]>([
    ["nothing, which is docker's mark for its store", {}],
    ["a mail address alone", { email: "alice@example" }],
    ["empty texts", { auth: "", identitytoken: "" }],
  ])("with %s is none", (_, entry) => {
    expect(grantsOf({ h: entry })).toEqual({ grants: [], problems: [] });
  });

  it.each<[string, unknown]>([
    ["auth that is no base64", { auth: `${SECRET}!` }],
    ["auth without a colon", { auth: Buffer.from(SECRET).toString("base64") }],
    ["a token that would add a header", { registrytoken: `${SECRET}\r\nx: y` }],
    ["a number in its place", 7],
  ])("with %s is told by its host, and the others count", (_, entry) => {
    const { grants, problems } = grantsOf({ "bad.example": entry, good: { auth: auth("a", "b") } });
    expect(grants).toHaveLength(1);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain("bad.example");
    expect(problems[0]).not.toContain(SECRET);
  });

  it("under a key that may be a secret itself is told without it", () => {
    const { problems } = grantsOf({ [`https://alice:${SECRET}@host`]: {} });
    expect(problems).toHaveLength(1);
    expect(problems[0]).not.toContain(SECRET);
  });

  it("under the host itself counts before one under a URL of it", () => {
    const text = JSON.stringify({
      auths: { "https://h/v1/": { auth: auth("url", "x") }, h: { auth: auth("host", "x") } },
    });
    const [first] = parseDockerConfig(text).config?.entries ?? [];
    expect(first?.grant.username).toBe("host");
  });
});

describe("programs", () => {
  it("are those of hosts, and one for all others", () => {
    const text = JSON.stringify({
      credHelpers: { "GCR.io": "gcloud", "https://index.docker.io/v1/": "pass" },
      credsStore: "secretservice",
    });
    const { config, problems } = parseDockerConfig(text);
    expect(Object.fromEntries(config?.programs ?? [])).toEqual({
      "gcr.io": "gcloud",
      "docker.io": "pass",
    });
    expect(config?.store).toBe("secretservice");
    expect(problems).toEqual([]);
  });

  it.each(["../../tmp/x", "/bin/sh", "a b", "-x", "a;b", "x".repeat(65)])(
    "named %j are refused",
    (name) => {
      const text = JSON.stringify({ credHelpers: { h: name }, credsStore: name });
      const { config, problems } = parseDockerConfig(text);
      expect(config?.programs.size).toBe(0);
      expect(config?.store).toBeUndefined();
      expect(problems).toHaveLength(2);
    },
  );
});

describe("a text", () => {
  it.each([`{"auths": {"h": {"auth": "${SECRET}`, "", "[]", '"x"', "null"])(
    "that is no object is broken, and not quoted: %j",
    (text) => {
      const { config, problems } = parseDockerConfig(text);
      expect(config).toBeUndefined();
      expect(problems).toHaveLength(1);
      expect(problems[0]).not.toContain(SECRET);
    },
  );

  it("with parts of other kinds keeps those that are right", () => {
    const { config, problems } = parseDockerConfig('{"auths": [], "credHelpers": 7, "x": 1}');
    expect(config?.entries).toEqual([]);
    expect(problems).toEqual(["auths is not an object", "credHelpers is not an object"]);
  });

  it("that was parsed shows no secret, however it is printed", () => {
    const text = JSON.stringify({ auths: { h: { auth: auth("alice", SECRET) } } });
    const { config } = parseDockerConfig(text);
    const printed = [inspect(config, { depth: 9, showHidden: true }), JSON.stringify(config)];
    expect(printed.join("")).not.toContain(SECRET);
    expect(printed.join("")).not.toContain(auth("alice", SECRET));
  });
});
