// SPDX-License-Identifier: Apache-2.0
// What a snapshotter, or somebody else at the API socket, can send or leave on disk that is not
// right: each gets one clear error in nydusd's shape, and a neighbour that is mounted all the
// while reads as ever.

import { deepStrictEqual, match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fsidOf } from "../../src/nydusd/fsid.ts";
import { isJson } from "../../src/nydusd/bind-fields.ts";
import { readFixture } from "../support/rafs-fixtures.ts";
import type { Nydusd } from "./nydusd-process.ts";
import type { Answer } from "./nydusd-recorded.ts";
import { type BindBody, Site } from "./nydusd-site.ts";
import { bindImage } from "./nydusd-steps.ts";
import { nydusImage } from "./support/nydus-images.ts";
import { dropCaches, must } from "./support/run.ts";
import { SLOWNESS, fullOnly } from "./support/settings.ts";

const timeout = 60_000 * SLOWNESS;
const NEIGHBOUR = nydusImage("zstd-sha256");

fullOnly("what is wrong with a bind", () => {
  let site: Site;
  let daemon: Nydusd;
  let neighbour: string;
  before(async () => {
    site = await Site.make();
    daemon = await site.start({ supervised: false });
    await bindImage(daemon, site, { id: "1", name: NEIGHBOUR.name });
    neighbour = await site.mount(fsidOf("1"));
    await site.expectTree(neighbour, NEIGHBOUR.expectation);
  });
  after(async () => {
    await site.umountAll();
    await daemon.end("SIGTERM");
    await site.stop();
  });

  const put = (body: unknown): Promise<Answer> => daemon.ask("PUT", "/api/v2/blobs", body);
  const messageOf = ({ body }: Answer): string => {
    ok(isJson(body) && body["code"] === "UNDEFINED", JSON.stringify(body));
    return String(body["message"]);
  };
  const pathOf = (id: string): string => join(site.root, "snapshots", id, "fs/image/image.boot");
  /** Binds, expects that status and message, and looks at the neighbour. */
  const refused = async (body: unknown, status: number, message: RegExp): Promise<void> => {
    const answered = await put(body);
    match(messageOf(answered), message);
    strictEqual(answered.status, status);
    strictEqual(await daemon.state(), "RUNNING");
  };
  const neighbourReads = async (): Promise<void> => {
    await dropCaches();
    await site.expectTree(neighbour, NEIGHBOUR.expectation);
  };

  test("missing, wrong and unknown fields", { timeout }, async () => {
    await site.snapshot("2", "lz4-sha256");
    const body = site.body("2");
    for (const [sent, status, message] of wrongBodies(body)) await refused(sent, status, message);
    deepStrictEqual((await put({ ...body, of: "a later version" })).status, 204);
    const target = await site.mount(fsidOf("2"));
    await site.expectTree(target);
    await site.umount(target);
    await neighbourReads();
  });

  test("a bootstrap that is not there, or is something else", { timeout }, async () => {
    const INVALID = /^CreateBlobObject\(DaemonAbnormal\(Other\("Invalid argument \(os error 22\)"/;
    await mkdir(join(site.root, "snapshots/3/fs/image"), { recursive: true });
    const path = pathOf("3");
    const cases: [name: string, make: () => Promise<unknown>, message: RegExp][] = [
      ["nothing", () => Promise.resolve(), INVALID],
      ["a directory", () => mkdir(path), INVALID],
      ["a FIFO", () => must("mkfifo", [path]), INVALID],
      ["a device", () => symlink("/dev/zero", path), INVALID],
      ["a dangling link", () => symlink("/nowhere", path), INVALID],
      ["empty", () => writeFile(path, ""), /it is cut: 0 bytes/],
      ["text", () => writeFile(path, "no bootstrap\n".repeat(1000)), /not whole blocks/],
      ["zeros", () => writeFile(path, Buffer.alloc(8192)), /not a RAFS v6 bootstrap/],
      ["RAFS v5", () => writeFile(path, rafsV5()), /it is a Nydus RAFS v5 bootstrap; only v6/],
      ["cut", () => writeFile(path, readFixture("nydus").bootstrap.subarray(0, 16_384)), /./],
    ];
    for (const [name, make, message] of cases) {
      await rm(path, { recursive: true, force: true });
      await make();
      const startMs = performance.now();
      await refused(site.body("3"), 500, message);
      ok(performance.now() - startMs < 3000 * SLOWNESS, name);
    }
    // Nothing of it can be mounted, and the right file can be bound afterwards.
    notStrictEqual((await site.tryMount(fsidOf("3"), "/mnt")).status, 0);
    await rm(path, { force: true });
    await site.snapshot("3", "none-sha256");
    strictEqual((await put(site.body("3"))).status, 204);
    await neighbourReads();
  });

  test("a name bound twice, mounted and not", { timeout }, async () => {
    await site.snapshot("4", "lz4-sha256");
    for (let times = 0; times < 2; times += 1) {
      strictEqual((await put(site.body("4"))).status, 204);
    }
    // Another image under the name, before it is mounted, is what it names then.
    await site.unpack("4", readFixture("nydus"));
    strictEqual((await put(site.body("4"))).status, 204);
    const target = await site.mount(fsidOf("4"));
    await site.expectTree(target, "two-layers");
    strictEqual((await put(site.body("4"))).status, 204);
    await site.snapshot("4", "lz4-sha256");
    await refused(site.body("4"), 500, /it is mounted, and is sha256:/);
    await dropCaches();
    await site.expectTree(target, "two-layers");
    await site.umount(target);
    await neighbourReads();
  });

  test("an image that is unbound while it is mounted is served on", { timeout }, async () => {
    await bindImage(daemon, site, { id: "5", name: "nydus-lz4" });
    const target = await site.mount(fsidOf("5"));
    const gone = `/api/v2/blobs?domain_id=${fsidOf("5")}`;
    strictEqual((await daemon.ask("DELETE", gone)).status, 204);
    await site.expectTree(target, "two-layers");
    await site.umount(target);
    const again = await site.tryMount(fsidOf("5"), "/mnt");
    notStrictEqual(again.status, 0, "it is mounted after its end");
    await neighbourReads();
  });

  test("a .blob.meta of another blob is not used, and that is said", { timeout }, async () => {
    const another = [...readFixture("nydus").blobMeta.values()][0] ?? new Uint8Array();
    for (const [id, name, bytes] of [
      ["60", "nydus-none", another],
      ["61", "nydus-batch", Buffer.from("no chunk infos")],
    ] as const) {
      const image = readFixture(name);
      const blobMeta = new Map([...image.blobMeta.keys()].map((blob) => [blob, bytes]));
      await site.unpack(id, { ...image, blobMeta });
      strictEqual((await put(site.body(id))).status, 204, daemon.output);
      match(daemon.output, /\.blob\.meta is not used: .*fetched instead/);
      const target = await site.mount(fsidOf(id));
      await site.expectTree(target, "two-layers");
      await site.umount(target);
    }
    await neighbourReads();
  });
});

function rafsV5(): Uint8Array {
  const bytes = Buffer.alloc(8192);
  bytes.writeUInt32LE(0x52414653, 0);
  bytes.writeUInt32LE(0x500, 4);
  return bytes;
}

function wrongBodies(body: BindBody): [sent: unknown, status: number, message: RegExp][] {
  const { config } = body;
  const { host: _host, ...hostless } = config.backend_config;
  const withConfig = (extra: object): object => ({ ...body, config: { ...config, ...extra } });
  const missing = (name: string): RegExp =>
    new RegExp(`^ParseBody\\(Error\\("missing field \`${name}\``);
  const without = (from: object, name: string): object =>
    Object.fromEntries(Object.entries(from).filter(([key]) => key !== name));
  return [
    ["no JSON at all", 400, /^ParseBody/],
    ["[]", 400, /^ParseBody\(Error\("invalid type: sequence/],
    [without(body, "type"), 400, missing("type")],
    [without(body, "id"), 400, missing("id")],
    [without(body, "config"), 400, /^BadRequest$/],
    [withConfig({ backend_type: undefined }), 400, missing("backend_type")],
    [withConfig({ backend_config: hostless }), 400, /^BadRequest$/],
    [withConfig({ backend_type: "nowhere" }), 400, /^BadRequest$/],
    [withConfig({ cache_config: undefined }), 400, missing("cache_config")],
    [withConfig({ prefetch_config: { enable: true } }), 400, missing("threads_count")],
    [withConfig({ cache_config: { work_dir: "/nowhere" } }), 500, /^CreateBlobObject/],
    [{ ...body, id: 7 }, 400, /^ParseBody\(Error\("invalid type: number/],
    [{ ...body, type: "datablob" }, 500, /^CreateBlobObject/],
    [{ ...body, id: "../../x" }, 500, /^CreateBlobObject/],
    [{ ...body, domain_id: "a,b" }, 500, /^CreateBlobObject/],
  ];
}
