// SPDX-License-Identifier: Apache-2.0
// Removal, renewal, metrics and the rest of the API, with a scripted service behind it.

import { beforeEach, describe, expect, test } from "vitest";
import { isJson } from "../../../src/nydusd/bind-fields.ts";
import { fsidOf } from "../../../src/nydusd/fsid.ts";
import { parseState } from "../../../src/nydusd/state-format.ts";
import { messageOf } from "./api-client.ts";
import { Rig } from "./scripted-rooms.ts";

let rig: Rig;
const FSID = fsidOf("2");
beforeEach(async () => {
  rig = await Rig.make();
  await rig.begin(rig.supervised);
});

test("the name of a snapshot is a hash of its id", () => {
  expect(FSID).toBe("8edc32a653db9db8082f8b0a34cbfe69f299113756746eb8bb4e9ae87d28130c");
});

describe("DELETE blobs", () => {
  const remove = (query: string) => rig.ask("DELETE", `/api/v2/blobs${query}`);

  test("of a domain forgets its images, and is never an error", async () => {
    await rig.put(FSID);
    expect((await remove(`?domain_id=${FSID}`)).status).toBe(204);
    expect(rig.service.bound).toEqual([]);
    expect((await remove(`?domain_id=${FSID}`)).status).toBe(204);
  });

  test("of a pair forgets one of a domain; an unknown pair is said in the words looked for", async () => {
    for (const id of ["a", "b"]) {
      await rig.ask("PUT", "/api/v2/blobs", { ...rig.body(id), domain_id: "shared" });
    }
    expect((await remove("?blob_id=a&domain_id=shared")).status).toBe(204);
    expect(rig.service.bound).toEqual(["b"]);
    const again = await remove("?blob_id=a&domain_id=shared");
    expect(again.status).toBe(500);
    expect(messageOf(again)).toContain("blob_cache: cache entry not found");
  });

  test("of a file culls it, also one that is not there; one in use is an error", async () => {
    const hex = "2c".repeat(32);
    expect((await remove(`?blob_id=${hex}`)).status).toBe(204);
    expect(rig.service.calls.at(-1)).toBe(`cull ${hex}`);
    rig.service.culls = "absent";
    expect((await remove("?blob_id=nosuch")).status).toBe(204);
    rig.service.culls = "in use";
    const inUse = await remove(`?blob_id=${hex}`);
    expect(inUse.status).toBe(500);
    expect(messageOf(inUse)).toBe(
      'DeleteBlobFile(DaemonAbnormal(Other("failed to start service, ")))',
    );
  });

  test("of what cannot be a file of the cache reaches no disk", async () => {
    const { calls } = rig.service;
    const before = calls.length;
    expect((await remove("?blob_id=..%2F..%2Fetc")).status).toBe(204);
    expect(calls).toHaveLength(before);
  });

  test("of nothing is a bad request", async () => {
    expect(messageOf(await remove(""))).toBe("BadRequest");
  });
});

describe("PUT config", () => {
  const renew = (id: string, body: object) =>
    rig.ask("PUT", `/api/v1/config?id=${encodeURIComponent(id)}`, body);
  const auth = Buffer.from("alice:two").toString("base64");

  test("renews an image's credentials by the snapshot's id, and keeps them", async () => {
    await rig.put(FSID);
    expect((await renew("/2", { registry_auth: auth })).status).toBe(204);
    expect(rig.service.renewed).toEqual([{ fsid: FSID, username: "alice", password: "two" }]);
    await rig.ask("PUT", "/api/v1/daemon/fuse/sendfd");
    const [body] = parseState(rig.supervisor.state).images;
    expect(JSON.stringify(body)).toContain(auth);
  });

  test("renews what else comes from the same repository, in the journal too", async () => {
    for (const id of [FSID, "same"]) await rig.put(id);
    await rig.ask(
      "PUT",
      "/api/v2/blobs",
      rig.body("other", (config) => {
        const before = config["backend_config"];
        config["backend_config"] = { ...(isJson(before) ? before : {}), repo: "elsewhere" };
      }),
    );
    await renew("/2", { registry_auth: auth });
    await rig.ask("PUT", "/api/v1/daemon/fuse/sendfd");
    const { images } = parseState(rig.supervisor.state);
    const renewed = images.filter((body) => JSON.stringify(body).includes(auth));
    expect(renewed).toHaveLength(2);
  });

  test("of an unknown image is no error; of an unknown key, or no user, it is", async () => {
    expect((await renew("/7", { registry_auth: auth })).status).toBe(204);
    const unknown = await renew("/2", { nope: "x" });
    expect([unknown.status, messageOf(unknown)]).toEqual([500, "Configure(ResponsePayloadType)"]);
    await rig.put(FSID);
    expect((await renew("/2", { registry_auth: "YWxpY2U=" })).status).toBe(500);
    expect((await rig.ask("GET", "/api/v1/config?id=/2")).body).toEqual({});
  });
});

describe("metrics", () => {
  const blobcache = (id: string) => rig.ask("GET", `/api/v1/metrics/blobcache${id}`);

  test("of the cache are there from the bind on, by each name of the image", async () => {
    expect((await blobcache("?id=%2F2")).status).toBe(404);
    await rig.put(FSID);
    for (const id of [`?id=%2F${FSID}`, `?id=${FSID}`, "?id=%2F2", ""]) {
      const { status, body } = await blobcache(id);
      expect(status).toBe(200);
      expect(body).toMatchObject({
        underlying_files: [`${"2c".repeat(32)}.blob.data`],
        store_path: `${rig.root}/snapshots/2/fs`,
        total: 7,
        entries_count: 96,
        prefetch_data_amount: 300,
        prefetch_requests_count: 3,
        prefetch_cumulative_time_millis: 250,
        data_all_ready: false,
      });
    }
    const unknown = await blobcache("?id=%2F3");
    expect([unknown.status, messageOf(unknown)]).toEqual([
      404,
      "BlobcacheMetrics(Metrics(Stats(NoCounter)))",
    ]);
  });

  test("of the files are sums, and reads count where the snapshotter looks", async () => {
    await rig.put("a");
    await rig.put("b");
    const { body } = await rig.ask("GET", "/api/v1/metrics");
    expect(body).toMatchObject({
      data_read: 14_000,
      fop_hits: [0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
      fop_errors: [0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    });
    expect(messageOf(await rig.ask("GET", "/api/v1/metrics?id=%2F9"))).toBe(
      "GlobalMetrics(Metrics(Stats(NoCounter)))",
    );
  });

  test("of the backend and of reads in flight", async () => {
    await rig.put("a");
    const backend = await rig.ask("GET", "/api/v1/metrics/backend");
    expect(backend.body).toMatchObject({ backend_type: "registry", read_amount_total: 4000 });
    const sinceMs = 1_700_000_000_999;
    rig.service.inflight = [{ fsidOrBlob: "a", offset: 0, length: 4096, sinceMs }];
    expect((await rig.ask("GET", "/api/v1/metrics/inflight")).body).toEqual([
      { inode: 0, opcode: 15, unique: 1, timestamp_secs: 1_700_000_000 },
    ]);
  });

  test("that are nobody's here are not found", async () => {
    expect((await rig.ask("GET", "/api/v1/metrics/files")).status).toBe(404);
    expect((await rig.ask("GET", "/api/v1/metrics/pattern")).status).toBe(404);
  });
});

describe("the rest", () => {
  test("mounts are not supported, events are none, the log's level is changed", async () => {
    const mount = await rig.ask("POST", "/api/v1/mount?mountpoint=/2", { fs_type: "rafs" });
    expect([mount.status, messageOf(mount)]).toEqual([501, "Mount(DaemonAbnormal(Unsupported))"]);
    expect((await rig.ask("GET", "/api/v1/daemon/events")).body).toMatchObject({ errors: [] });
    expect((await rig.ask("PUT", "/api/v1/daemon", { log_level: "debug" })).status).toBe(204);
    expect(rig.levels).toEqual(["debug"]);
    expect((await rig.ask("PUT", "/api/v1/daemon", { log_level: "x" })).status).toBe(500);
    expect((await rig.ask("PUT", "/api/v1/daemon", "{")).status).toBe(400);
    expect(messageOf(await rig.ask("GET", "/api/v2/blobs"))).toBe("BadRequest");
    expect((await rig.ask("GET", "/api/v2/blobs?domain_id=x")).status).toBe(501);
  });
});
