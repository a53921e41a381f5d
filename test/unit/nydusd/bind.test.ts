// SPDX-License-Identifier: Apache-2.0
// Bind bodies: what the snapshotter sends, and each way in which one can be wrong.

import { beforeEach, describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { type Json, isJson } from "../../../src/nydusd/bind-fields.ts";
import { parseBindBody } from "../../../src/nydusd/bind.ts";
import { type Answered, messageOf } from "./api-client.ts";
import { Rig } from "./scripted-rooms.ts";

type Change = (config: Record<string, unknown>) => void;

let rig: Rig;
beforeEach(async () => {
  rig = await (await Rig.make()).begin();
});

const put = (body: unknown): Promise<Answered> => rig.ask("PUT", "/api/v2/blobs", body);

function backend(change: Json): Change {
  return (config) => {
    const before = config["backend_config"];
    config["backend_config"] = { ...(isJson(before) ? before : {}), ...change };
  };
}

const bound = (change?: Change) => parseBindBody(rig.body("f", change), { fscacheDir: "/c" }).image;

describe("a body as the snapshotter sends it", () => {
  test("becomes an image of a registry", () => {
    const image = bound();
    expect(image).toMatchObject({
      fsid: "f",
      domainId: "f",
      prefetch: { enabled: false, all: false, bandwidthRate: 0 },
      backend: { kind: "registry", host: "127.0.0.1:5060", repository: "big" },
    });
    expect(image.blobMetaDirectories).toEqual([`${rig.root}/snapshots/2/fs/image`, "/c"]);
    expect(image.backend).toMatchObject({
      access: {
        scheme: "http",
        credentials: { username: "alice", password: "one" },
        skipVerify: true,
        caFiles: [],
        connectTimeoutMs: 5000,
        timeoutMs: 5000,
        proxy: undefined,
      },
    });
  });

  test("without what may be left out has nydusd's defaults", () => {
    const image = bound((config) => {
      config["backend_config"] = { host: "r.example", repo: "a/b" };
      delete config["prefetch_config"];
    });
    expect(image.backend).toMatchObject({
      access: { scheme: "https", credentials: undefined, skipVerify: false, timeoutMs: 5000 },
    });
    expect(image.prefetch.enabled).toBe(false);
  });

  test("may have a bearer token, certificates, a redirected host and a proxy", () => {
    const { backend: registry } = bound(
      backend({
        registry_token: "t",
        ca_cert_files: ["/ca.pem"],
        blob_url_scheme: "http",
        blob_redirected_host: "cdn.example",
        proxy: { url: "http://p:65001", ping_url: "http://p:40901", check_interval: 7 },
      }),
    );
    expect(registry).toMatchObject({
      access: {
        credentials: { bearer: "t" },
        caFiles: ["/ca.pem"],
        blobUrlScheme: "http",
        blobRedirectedHost: "cdn.example",
        proxy: {
          url: "http://p:65001",
          pingUrl: "http://p:40901",
          fallback: true,
          checkIntervalMs: 7000,
          useHttp: false,
        },
      },
    });
  });

  test("may name a directory or a file instead of a registry", () => {
    const local = (change: Json) =>
      bound((config) => {
        config["backend_type"] = "localfs";
        config["backend_config"] = change;
      }).backend;
    expect(local({ dir: "/blobs" })).toEqual({ kind: "directory", directory: "/blobs" });
    expect(local({ blob_file: "/b", dir: "/d" })).toEqual({ kind: "file", blobFile: "/b" });
  });

  test("is its own domain without a domain_id", () => {
    const { domain_id: _, ...body } = rig.body("f");
    expect(parseBindBody(body, { fscacheDir: "/c" }).image.domainId).toBe("f");
  });

  test("is bound, and unknown fields are ignored", async () => {
    const answered = await put({ ...rig.body("x1"), foo: 1 });
    expect(answered.status).toBe(204);
    expect(rig.service.bound).toEqual(["x1"]);
  });

  test("is bound again with what is new", async () => {
    await rig.put("x1");
    const again = rig.body("x1", backend({ repo: "other" }));
    expect((await put(again)).status).toBe(204);
    expect(rig.service.images.get("x1")?.backend).toMatchObject({ repository: "other" });
  });
});

describe("a body that is refused", () => {
  test.each<[string, unknown, string]>([
    ["no JSON", '{"type":1', 'ParseBody(Error("'],
    ["no object", "[]", 'ParseBody(Error("invalid type: sequence, expected struct'],
    ["no type", { id: "x" }, "missing field `type`"],
    ["no id", { type: "bootstrap" }, "missing field `id`"],
    ["a type of another kind", { type: 1, id: "x" }, "invalid type: number, expected a string"],
  ])("%s: 400 ParseBody", async (_, body, message) => {
    const answered = await put(body);
    expect(answered.status).toBe(400);
    expect(messageOf(answered)).toContain("ParseBody(Error(");
    expect(messageOf(answered)).toContain(message);
  });

  test.each<[string, Change, string]>([
    ["backend_type", (config) => delete config["backend_type"], "backend_type"],
    ["backend_config", (config) => delete config["backend_config"], "backend_config"],
    ["cache_type", (config) => delete config["cache_type"], "cache_type"],
    ["cache_config", (config) => delete config["cache_config"], "cache_config"],
    ["threads_count", (config) => (config["prefetch_config"] = { enable: true }), "threads_count"],
  ])("without %s: 400 ParseBody", async (_, change, field) => {
    const answered = await put(rig.body("x", change));
    expect(answered.status).toBe(400);
    expect(messageOf(answered)).toContain(`missing field \`${field}\``);
  });

  test.each<[string, Change]>([
    ["an unknown backend", (config) => (config["backend_type"] = "zzz")],
    ["no host", backend({ host: undefined })],
    ["an empty host", backend({ host: "" })],
    ["no repository", backend({ repo: undefined })],
    ["a host that is no text", backend({ host: 7 })],
    ["an unknown scheme", backend({ scheme: "ftp" })],
    ["an auth without a password", backend({ auth: "YWxpY2U=" })],
    ["a proxy that is no URL", backend({ proxy: { url: "no" } })],
    ["another cache", (config) => (config["cache_type"] = "blobcache")],
    ["localfs without a place", (config) => (config["backend_type"] = "localfs")],
    ["s3 without a region", (config) => (config["backend_type"] = "s3")],
  ])("%s: 400 BadRequest", async (_, change) => {
    const answered = await put(rig.body("x", change));
    expect(answered.status).toBe(400);
    expect(answered.body).toEqual({ code: "UNDEFINED", message: "BadRequest" });
    expect(rig.service.bound).toEqual([]);
  });

  test("without config: 400 BadRequest", async () => {
    expect(messageOf(await put({ type: "bootstrap", id: "x" }))).toBe("BadRequest");
  });

  test.each(["oss", "s3"])("the backend %s is not served, and the answer says so", async (type) => {
    const body = rig.body("x", (config) => {
      config["backend_type"] = type;
      config["backend_config"] = { endpoint: "e", bucket_name: "b", region: "r" };
    });
    const answered = await put(body);
    expect(answered.status).toBe(400);
    expect(messageOf(answered)).toContain(`the backend "${type}" is not served by erofsd yet`);
  });

  test.each<[string, (body: Record<string, unknown>) => void, string]>([
    ["another type", (body) => (body["type"] = "datablob"), "Invalid argument (os error 22)"],
    ["an id with a slash", (body) => (body["id"] = "a/b"), "Invalid argument (os error 22)"],
  ])("%s: 500", async (_, change, text) => {
    const body = { ...rig.body("x") };
    change(body);
    const answered = await put(body);
    expect(answered.status).toBe(500);
    expect(messageOf(answered)).toBe(`CreateBlobObject(DaemonAbnormal(Other("${text}")))`);
  });

  test.each<[string, Change, string]>([
    ["work_dir", (config) => (config["cache_config"] = { work_dir: "/nowhere" }), "os error 5"],
    ["metadata_path", (config) => (config["metadata_path"] = "/nowhere"), "os error 22"],
  ])("a %s that does not exist: 500", async (_, change, text) => {
    const answered = await put(rig.body("x", change));
    expect(answered.status).toBe(500);
    expect(messageOf(answered)).toContain(text);
  });

  test("a bootstrap that the service refuses: 500 with its words", async () => {
    rig.service.bindFailure = new DaemonError({
      code: "image_invalid",
      where: "/x",
      detail: 'it is no "RAFS"',
    });
    const answered = await rig.put("x");
    expect(answered.status).toBe(500);
    expect(messageOf(answered)).toBe(
      'CreateBlobObject(DaemonAbnormal(Other("/x: it is no \\"RAFS\\"")))',
    );
  });

  test("no answer and no log line has a secret", async () => {
    const secret = Buffer.from("bob:hunter2").toString("base64");
    for (const change of [backend({ host: "" }), backend({ scheme: "ftp" })]) {
      await put(
        rig.body("x", (config) => {
          backend({ auth: secret })(config);
          change(config);
        }),
      );
    }
    await put(`{"config":{"backend_config":{"auth":"${secret}"`);
    await put(rig.body("x", backend({ auth: secret })));
    expect(JSON.stringify(rig.log.lines)).not.toMatch(new RegExp(`${secret}|hunter2`));
  });
});
