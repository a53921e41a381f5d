// SPDX-License-Identifier: Apache-2.0
// What people and programs write of credentials: docker's config.json, the keys in it, mountinfo.
import { inspect } from "node:util";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseDockerConfig } from "../../src/source/registry/credentials/docker-config.ts";
import { canonicalHost, parseHostKey } from "../../src/source/registry/credentials/host-keys.ts";
import { parseMountInfo } from "../../src/source/registry/credentials/program-path.ts";
import { fuzzParameters, mutated } from "../support/fuzz.ts";

const SECRET = "zq-secret-zq";
const SECRET_64 = Buffer.from(`alice:${SECRET}`).toString("base64");

const sound = Buffer.from(
  JSON.stringify({
    auths: {
      "https://index.docker.io/v1/": { auth: SECRET_64 },
      "quay.io/team": { username: "alice", password: SECRET },
      "h:5000": { auth: SECRET_64, identitytoken: SECRET },
      h: { registrytoken: SECRET },
    },
    credHelpers: { "gcr.io": "gcloud" },
    credsStore: "pass",
  }),
);

/** Whatever the text: grants that can be sent, problems that quote no secret. */
function check(text: string): void {
  const { config, problems } = parseDockerConfig(text);
  for (const { host, path, grant } of config?.entries ?? []) {
    expect(canonicalHost(host)).toBe(host);
    expect(path).not.toMatch(/^\/|\/$/);
    const sent = [grant.basicAuthorization, grant.bearerAuthorization, grant.identityToken];
    expect(sent.filter((each) => each !== undefined)).toHaveLength(1);
    for (const header of sent.slice(0, 2)) expect(header ?? "").toMatch(/^[\x20-\x7e]*$/);
  }
  for (const name of [...(config?.programs.values() ?? []), config?.store ?? "x"]) {
    expect(name).toMatch(/^[A-Za-z0-9._-]+$/);
  }
  const printed = inspect([config?.entries, problems], { depth: 9, showHidden: true });
  expect(printed).not.toContain("zq-secret");
}

describe("docker's config.json", () => {
  it("gives credentials or problems when bytes are changed", () => {
    const property = fc.property(mutated(sound, sound.length), (bytes) => {
      check(Buffer.from(bytes).toString("utf8"));
    });
    fc.assert(property, fuzzParameters());
  });

  it("gives credentials or problems for any JSON", () => {
    const json = fc.jsonValue({ maxDepth: 3 });
    const text = fc.oneof(fc.constantFrom("", SECRET, SECRET_64, "<token>", "a:b"), fc.string());
    const field = fc.oneof(text, json);
    const entry = fc.oneof(
      fc.record(
        {
          auth: field,
          username: field,
          password: field,
          identitytoken: field,
          registrytoken: field,
        },
        { requiredKeys: [] },
      ),
      json,
    );
    const key = fc.oneof(
      fc.constantFrom("h", "https://h/v1/", "h/team", "__proto__", "constructor", "docker.io"),
      fc.string(),
    );
    const config = fc.record(
      {
        auths: fc.oneof(fc.dictionary(key, entry), json),
        credHelpers: fc.oneof(fc.dictionary(key, field), json),
        credsStore: field,
      },
      { requiredKeys: [] },
    );
    const property = fc.property(fc.oneof(config, json), (value) => {
      check(JSON.stringify(value));
    });
    fc.assert(property, fuzzParameters());
  });
});

describe("keys of credentials", () => {
  const words = [
    "https://",
    "http://",
    "docker.io",
    "index.",
    "h",
    ":443",
    ":5000",
    "/",
    "v1",
    "A",
  ];
  const texts = fc.oneof(
    fc
      .array(fc.oneof(fc.constantFrom(...words), fc.string({ maxLength: 2 })))
      .map((all) => all.join("")),
    fc.tuple(fc.constantFrom(...words), fc.nat(3000)).map(([word, count]) => word.repeat(count)),
  );

  it("give a host and a path that mean the same when they are read again", () => {
    const property = fc.property(texts, (text) => {
      const begin = performance.now();
      const key = parseHostKey(text);
      expect(performance.now() - begin).toBeLessThan(1_000);
      if (key === undefined) return;
      expect(parseHostKey(key.path === "" ? key.host : `${key.host}/${key.path}`)).toEqual(key);
    });
    fc.assert(property, fuzzParameters());
  });
});

describe("mountinfo", () => {
  it("gives mount points, whatever it holds", () => {
    const words = [
      "1 2 0:3 / /mnt",
      " - ",
      "erofs",
      " none ",
      "ro,fsid=x",
      "\n",
      "\\040",
      "\\",
      " ",
    ];
    const texts = fc
      .array(fc.oneof(fc.constantFrom(...words), fc.string({ maxLength: 2 })))
      .map((all) => all.join(""));
    const property = fc.property(texts, (text) => {
      const points = parseMountInfo(text);
      expect(points.length).toBeLessThanOrEqual(text.split("fsid=").length - 1);
    });
    fc.assert(property, fuzzParameters());
  });
});
