// SPDX-License-Identifier: Apache-2.0
import { mkdir, rename, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import { beforeEach, describe, expect, it } from "vitest";
import { systemClock } from "../../../../../src/platform/clock.ts";
import { Secret } from "../../../../../src/platform/secret.ts";
import {
  type CredentialParts,
  createCredentialSource,
} from "../../../../../src/source/registry/credentials/create-source.ts";
import { takeEnvironment } from "../../../../../src/source/registry/credentials/environment.ts";
import { PushedCredentials } from "../../../../../src/source/registry/credentials/pushed.ts";
import { faultOf } from "../../../../support/faults.ts";
import { QuietLog } from "../../../../support/quiet-log.ts";
import { tempDir } from "../../../../support/temp-dir.ts";

let folder: string;
let log: QuietLog;

beforeEach(async () => {
  folder = await tempDir();
  log = new QuietLog();
});

type Given = Partial<Omit<CredentialParts, "environment">> & {
  readonly environment?: Record<string, string>;
};

function source({ environment = {}, ...given }: Given = {}) {
  return createCredentialSource({
    clock: systemClock,
    log,
    pushed: new PushedCredentials(),
    configured: [],
    dockerConfig: undefined,
    ...given,
    environment: takeEnvironment(environment, folder),
  });
}

async function userOf(from: ReturnType<typeof source>, repository = "team/app", host = "h") {
  const { signal } = new AbortController();
  return (await from.find({ host, repository, refused: undefined, signal }))?.username;
}

function configOf(user: string): string {
  const auth = Buffer.from(`${user}:secret9`).toString("base64");
  return JSON.stringify({ auths: { h: { auth } } });
}

async function file(name: string, text: string): Promise<string> {
  const path = join(folder, name);
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, text);
  return path;
}

describe("credentials", () => {
  it("come from who knows them, in order of precedence", async () => {
    await file(".docker/config.json", configOf("docker"));
    const pushed = new PushedCredentials();
    const environment = {
      EROFSD_REGISTRY_AUTH: configOf("environment"),
      EROFSD_REGISTRY_AUTH_FILE: await file("auth.json", configOf("file")),
    };
    const password = new Secret("secret9");
    const configured = [{ host: "h", username: "configured", password }];
    pushed.set("h", undefined, { username: "pushed", password: "x" });
    expect(await userOf(source({ pushed, configured, environment }))).toBe("pushed");
    pushed.delete("h", undefined);
    const { EROFSD_REGISTRY_AUTH_FILE } = environment;
    const all = { EROFSD_REGISTRY_AUTH: configOf("environment"), EROFSD_REGISTRY_AUTH_FILE };
    expect(await userOf(source({ pushed, configured, environment: { ...all } }))).toBe(
      "configured",
    );
    expect(await userOf(source({ environment: { ...all } }))).toBe("environment");
    expect(await userOf(source({ environment: { EROFSD_REGISTRY_AUTH_FILE } }))).toBe("file");
    expect(await userOf(source())).toBe("docker");
    expect(log.lines).toEqual([]);
  });

  it("of docker are where DOCKER_CONFIG says, or the configuration, or nowhere", async () => {
    await file(".docker/config.json", configOf("home"));
    await file("elsewhere/config.json", configOf("elsewhere"));
    const named = await file("named.json", configOf("named"));
    const environment = () => ({ DOCKER_CONFIG: join(folder, "elsewhere") });
    expect(await userOf(source({ environment: environment() }))).toBe("elsewhere");
    expect(await userOf(source({ environment: environment(), dockerConfig: named }))).toBe("named");
    expect(await userOf(source({ dockerConfig: "" }))).toBeUndefined();
  });

  it("from the environment are taken out of it", async () => {
    const environment = { EROFSD_REGISTRY_AUTH: configOf("alice"), PATH: "/bin" };
    const taken = takeEnvironment(environment, folder);
    expect(environment).toEqual({ PATH: "/bin" });
    expect(taken.ofPrograms).toEqual({ PATH: "/bin" });
  });
});

describe("docker's file", () => {
  it("is read again when it has changed, and when it comes and goes", async () => {
    const path = join(folder, ".docker/config.json");
    const from = source();
    expect(await userOf(from)).toBeUndefined();
    await file(".docker/config.json", configOf("first"));
    expect(await userOf(from)).toBe("first");
    // The same size; docker replaces its file so.
    await writeFile(`${path}.new`, configOf("secon"));
    await rename(`${path}.new`, path);
    expect(await userOf(from)).toBe("secon");
    await writeFile(path, configOf("third"));
    await utimes(path, 1, 1);
    expect(await userOf(from)).toBe("third");
    await rename(path, `${path}.gone`);
    expect(await userOf(from)).toBeUndefined();
    expect(log.lines).toEqual([]);
  });

  it.each<[string, string, RegExp]>([
    ["is cut off", configOf("alice").slice(0, -9), /config\.json: it is not JSON$/],
    ["has a bad entry", '{"auths": {"h": {"auth": "secret9"}}}', /auths of h: auth is not/],
    ["is endless", " ".repeat(2 ** 20 + 1), /longer than 1048576 bytes$/],
  ])("that %s is warned of once, and others go on", async (_, text, reason) => {
    await file(".docker/config.json", text);
    const password = new Secret("x");
    const configured = [{ host: "other", username: "configured", password }];
    const from = source({ configured });
    expect(await userOf(from)).toBeUndefined();
    expect(await userOf(from)).toBeUndefined();
    expect(await userOf(from, "team/app", "other")).toBe("configured");
    expect(log.messages("warn")).toHaveLength(1);
    expect(log.messages("warn")[0]).toMatch(reason);
    expect(JSON.stringify(log.lines)).not.toContain("secret9");
    await file(".docker/config.json", configOf("mended"));
    expect(await userOf(from)).toBe("mended");
  });

  it("that is missing is missed only when the configuration names it", async () => {
    expect(await userOf(source({ environment: { DOCKER_CONFIG: "/nowhere" } }))).toBeUndefined();
    expect(log.lines).toEqual([]);
    await userOf(source({ dockerConfig: join(folder, "none.json") }));
    expect(log.messages("warn")[0]).toMatch(/none\.json: no such file$/);
  });

  it("that is a directory or a pipe is not waited for", async () => {
    await mkdir(join(folder, ".docker/config.json"), { recursive: true });
    expect(await userOf(source())).toBeUndefined();
    expect(log.messages("warn")[0]).toMatch(/it is not a file$/);
  });
});

describe("configured credentials", () => {
  it("are those of the narrowest repository, and in files those of now", async () => {
    const passwordFile = await file("password", "one\n");
    const tokenFile = await file("token", "opaque\n");
    const configured = [
      { host: "h", username: "all", password: new Secret("x") },
      { host: "H", repository: "team", username: "team", passwordFile },
      { host: "h", repository: "token/only", tokenFile },
    ];
    const from = source({ configured });
    const { signal } = new AbortController();
    const find = (repository: string) =>
      from.find({ host: "h", repository, refused: undefined, signal });
    expect(await userOf(from, "other")).toBe("all");
    const basic = (password: string) => Buffer.from(`team:${password}`).toString("base64");
    expect((await find("team/app"))?.basicAuthorization).toBe(`Basic ${basic("one")}`);
    expect((await find("token/only"))?.bearerAuthorization).toBe("Bearer opaque");
    await writeFile(passwordFile, "another");
    expect((await find("team/app"))?.basicAuthorization).toBe(`Basic ${basic("another")}`);
  });

  it("in a file that is missing or empty are warned of", async () => {
    const passwordFile = join(folder, "password");
    const from = source({ configured: [{ host: "h", username: "a", passwordFile }] });
    expect(await userOf(from)).toBeUndefined();
    await writeFile(passwordFile, "");
    expect(await userOf(from)).toBeUndefined();
    expect(log.messages("warn").map((text) => text.replace(/^.*: /, ""))).toEqual([
      "no such file",
      "it is empty",
    ]);
  });
});

describe("pushed credentials", () => {
  it("are bounded, and what is wrong is refused without quoting it", () => {
    const pushed = new PushedCredentials({ entriesMax: 1 });
    const push = (host: string, repository?: string, password = "secret9", username = "a") =>
      faultOf(() => {
        pushed.set(host, repository, { username, password });
        throw new Error("it was taken");
      });
    pushed.set("h", "team", { username: "a", password: "secret9" });
    pushed.set("h", "team", { username: "a", password: "secret8" });
    for (const [fault, field] of [
      [push("other"), "host"],
      [push("secret9@h"), "host"],
      [push("h", "UPPER"), "repository"],
      [push("h", "../x"), "repository"],
      [push("h", "team", "secret9", "a:secret9"), "credentials"],
    ] as const) {
      expect(fault).toMatchObject({ code: "request_invalid", field });
      expect(JSON.stringify(fault)).not.toContain("secret9");
    }
    expect([pushed.delete("h", "team"), pushed.delete("h", "team")]).toEqual([true, false]);
    expect(inspect(pushed)).toBe('PushedCredentials {"hosts":[]}');
  });
});
