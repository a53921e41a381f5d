// SPDX-License-Identifier: Apache-2.0
// What /openapi.json says of the API, and that every real answer is as it says.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import * as z from "zod";
import { ROUTES } from "../../../src/control/routes.ts";
import { encodedObjectFile } from "../../../src/cache/disk-names.ts";
import { ControlRig, type Reply } from "../../support/control-rig.ts";
import { digestOf } from "../../support/flow-rig.ts";
import { TAG, VOLUME } from "../../support/names-rig.ts";

const schema = z.record(z.string(), z.unknown());
const content = z.record(z.string(), z.looseObject({ schema }));
const operation = z.looseObject({
  operationId: z.string(),
  parameters: z.array(z.looseObject({ name: z.string(), in: z.string(), schema })).optional(),
  requestBody: z.looseObject({ content }).optional(),
  responses: z.record(z.string(), z.looseObject({ content })),
});
const openApi = z.looseObject({
  openapi: z.literal("3.1.1"),
  info: z.looseObject({ title: z.string(), version: z.string() }),
  paths: z.record(z.string(), z.record(z.string(), operation)),
  components: z.looseObject({
    schemas: z.record(z.string(), schema),
    securitySchemes: z.looseObject({
      token: z.looseObject({ type: z.literal("http"), scheme: z.literal("bearer") }),
    }),
  }),
  // Of the socket nothing is wanted.
  security: z.tuple([z.strictObject({}), z.strictObject({ token: z.tuple([]) })]),
});
type OpenApi = z.infer<typeof openApi>;

let rig: ControlRig;
let document: OpenApi;

beforeEach(async () => {
  rig = await ControlRig.start({
    config: `[registry]
hedge_percent = 2.5
docker_config = "/x"
[[registry.credentials]]
host = "h"
username = "u"
password = "the-secret"
[p2p]
proxy = "http://user:the-secret@127.0.0.1:4001"
headers = { "X-Key" = "the-secret" }`,
  });
  document = openApi.parse((await rig.ask("GET", "/openapi.json")).json);
});

/** What the document says an answer of this status looks like. */
function documented(method: string, path: string, status: number): z.ZodType {
  const responses = document.paths[path]?.[method.toLowerCase()]?.responses;
  const said = (responses?.[status] ?? responses?.["default"])?.content["application/json"]?.schema;
  const name = said?.["$ref"] === "#/components/schemas/Error" ? "Error" : undefined;
  const found = name === undefined ? said : document.components.schemas[name];
  if (found === undefined) throw new Error(`${method} ${path} ${status} is not documented`);
  return z.fromJSONSchema(found);
}

function check(method: string, path: string, reply: Reply): unknown {
  return documented(method, path, reply.status).parse(reply.json);
}

describe("the document", () => {
  test("has every route, and no other", () => {
    const said = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(said.toSorted()).toEqual(
      ROUTES.map(({ method, path }) => `${method} ${path}`).toSorted(),
    );
    const ids = ROUTES.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
  });

  test("names every parameter of a path, and says what a body holds", () => {
    const image = document.paths["/v1/images/{name}"]?.["get"];
    expect(image?.parameters).toMatchObject([{ name: "name", in: "path", required: true }]);
    const body = document.paths["/v1/images"]?.["post"]?.requestBody?.content["application/json"];
    expect(body?.schema).toMatchObject({
      required: ["reference"],
      additionalProperties: false,
      properties: { reference: { type: "string" }, fsid: { maxLength: 252 } },
    });
  });

  test("describes requests as they are checked", () => {
    const body = document.paths["/v1/images"]?.["post"]?.requestBody?.content["application/json"];
    const wanted = z.fromJSONSchema(body?.schema ?? {});
    expect(wanted.safeParse({ reference: "r", fsid: "x" }).success).toBe(true);
    for (const wrong of [
      {},
      { reference: "" },
      { reference: "r", more: 1 },
      { reference: 7 },
      [],
    ]) {
      expect([wrong, wanted.safeParse(wrong).success]).toEqual([wrong, false]);
    }
  });
});

describe("a real answer is as the document says", () => {
  test.each([
    "/v1/health",
    "/v1/ready",
    "/v1/status",
    "/v1/config",
    "/v1/cache",
    "/v1/images",
    "/v1/mounts",
    "/openapi.json",
  ])("GET %s", async (path) => {
    const reply = await rig.ask("GET", path);
    expect([path, reply.status]).toEqual([path, 200]);
    check("GET", path, reply);
  });

  test("of images that are bound, open, cached and failing", async () => {
    rig.names.publish(
      TAG,
      rig.names.image({ devices: [new Uint8Array(4096).fill(7)], tags: [""] }),
    );
    const registered = await rig.register(TAG);
    expect(registered.status).toBe(200);
    const { fsid } = z
      .looseObject({ fsid: z.string() })
      .parse(check("POST", "/v1/images", registered));
    await rig.open(fsid);
    rig.failFill(fsid, "it is down");
    const list = await rig.ask("GET", "/v1/images");
    expect(check("GET", "/v1/images", list)).toMatchObject({ images: [{ fsid, open: true }] });
    const one = await rig.ask("GET", `/v1/images/${encodeURIComponent(TAG)}`);
    expect(check("GET", "/v1/images/{name}", one)).toMatchObject({
      reference: TAG,
      lastFailure: { code: "registry_unreachable" },
      streams: [{ role: "bootstrap" }, { role: "device" }],
    });
    const failure = await rig.ask("GET", `/v1/failures?key=${encodeURIComponent(fsid)}`);
    expect(check("GET", "/v1/failures", failure)).toMatchObject({
      failure: { message: "registry h cannot be reached: it is down" },
    });
  });

  test("of an image whose streams lie on disk under the kernel's names for them", async () => {
    const device = new Uint8Array(4096).fill(7);
    const image = rig.names.image({ devices: [device], tags: [""] });
    rig.names.publish(TAG, image);
    const { object } = await rig.open(TAG);
    if (object === undefined) throw new Error("it was not opened");
    rig.handler.closed(object);
    for (const [cookieKey, blocks] of [
      [TAG, 2],
      [digestOf(device).slice(7), 1],
    ] as const) {
      const file = encodedObjectFile(rig.cacheDir, { volumeKey: VOLUME, cookieKey });
      if (file === undefined) throw new Error("it has a file");
      await mkdir(file.directory, { recursive: true });
      await writeFile(join(file.directory, file.name), new Uint8Array(blocks * 4096));
    }
    const one = await rig.ask("GET", `/v1/images/${encodeURIComponent(TAG)}`);
    expect(check("GET", "/v1/images/{name}", one)).toMatchObject({
      open: false,
      cachedBytes: 3 * 4096,
      streams: [{ cachedBytes: 2 * 4096 }, { cachedBytes: 4096, open: false }],
    });
  });

  test("of a cache with files", async () => {
    const directory = join(rig.cacheDir, "cache", "Ierofs,erofsd", "@00");
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, "Dkey"), new Uint8Array(8192));
    const reply = await rig.ask("GET", "/v1/cache");
    expect(check("GET", "/v1/cache", reply)).toMatchObject({
      dir: rig.cacheDir,
      usedBytes: 8192,
      files: 1,
      limitsPercent: { brun: 7, bcull: 5, bstop: 1 },
    });
  });

  test("of credentials that come and go", async () => {
    const body = JSON.stringify({ host: "h", token: "t" });
    const pushed = await rig.ask("POST", "/v1/credentials", body);
    expect([pushed.status, check("POST", "/v1/credentials", pushed)]).toEqual([200, {}]);
    const dropped = await rig.ask("DELETE", "/v1/credentials?host=h");
    expect(check("DELETE", "/v1/credentials", dropped)).toEqual({ deleted: true });
  });

  test.each([
    ["GET", "/v1/images/{name}", "/v1/images/nothing", 404, "image_unknown"],
    ["GET", "/v1/failures", "/v1/failures", 400, "request_invalid"],
    ["POST", "/v1/images", "/v1/images", 400, "request_invalid"],
    ["POST", "/v1/mounts", "/v1/mounts", 400, "request_invalid"],
    ["DELETE", "/v1/mounts/{mountPoint}", "/v1/mounts/%2Fnone", 404, "mount_unknown"],
    ["DELETE", "/v1/credentials", "/v1/credentials", 400, "request_invalid"],
    ["GET", "/v1/trace", "/v1/trace?seconds=x", 400, "request_invalid"],
  ])("%s %s when it fails", async (method, path, asked, status, code) => {
    const reply = await rig.ask(method, asked);
    expect(reply.status).toBe(status);
    expect(check(method, path, reply)).toMatchObject({ code });
  });

  test("of a daemon that is stopping", async () => {
    rig.readiness.stop(
      new (await import("../../../src/errors.ts")).DaemonError({ code: "stopping" }),
    );
    const reply = await rig.ask("GET", "/v1/ready");
    expect(reply.status).toBe(503);
    expect(check("GET", "/v1/ready", reply)).toMatchObject({ code: "stopping" });
    expect((await rig.ask("GET", "/v1/health")).status).toBe(200);
  });
});

describe("the configuration", () => {
  test("is given with its defaults, as people write it, without a secret", async () => {
    const { json, text } = await rig.ask("GET", "/v1/config");
    expect(text).not.toContain("the-secret");
    expect(json).toMatchObject({
      engine: { window: "1MiB", window_max: "8MiB", integrity: "prefer" },
      limits: { read_timeout: "30s", bytes_in_flight: "32MiB" },
      registry: {
        hedge_percent: 2.5,
        docker_config: "/x",
        credentials: [{ host: "h", username: "u", password: "[secret]" }],
      },
      p2p: {
        proxy: "http://[secret]@127.0.0.1:4001/",
        headers: { "X-Key": "[secret]" },
      },
    });
  });
});
