// SPDX-License-Identifier: Apache-2.0
// Traces in a real registry, which keeps no lists of referrers itself: the referrers tag. And in
// scripted ones, which do, or lie.

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as z from "zod";
import { pullTrace, pushTrace, showTrace } from "../../src/cli/trace-store-commands.ts";
import { EMPTY_CONFIG, buildArtifact, sha256 } from "../../src/image/oci/artifact.ts";
import { EROFS_LAYER_V1, OCI_INDEX, OCI_MANIFEST } from "../../src/image/oci/media-types.ts";
import { TRACE_ARTIFACT } from "../../src/source/traces.ts";
import { type RunningRegistry, startDockerRegistry } from "../support/docker-registry.ts";
import { codeOf } from "../support/fault-code.ts";
import { buildImage } from "../support/oci-image.ts";
import { pushBlob, pushBuiltImage, pushManifest } from "../support/push.ts";
import { type Respond, response, startScriptedServer } from "../support/scripted-server.ts";
import { tempDir } from "../support/temp-dir.ts";
import { makeSigner, SERVICE, ISSUER, startTokenServer } from "../support/token-server.ts";

const IMAGE = buildImage([{ bytes: Buffer.alloc(8192, 7), mediaType: EROFS_LAYER_V1 }]);
const { digest: IMAGE_DIGEST } = IMAGE.descriptor;
const OTHER = buildImage([{ bytes: Buffer.alloc(8192, 8), mediaType: EROFS_LAYER_V1 }]);

function traceText(manifestDigest: string = IMAGE_DIGEST, length = 4096): string {
  const image = { reference: "somewhere/app:1", manifestDigest };
  const lines = [
    { erofsdTrace: 1, startedAt: "2026-01-31T12:00:00.000Z", version: "0.1.0", image },
    { stream: 0, digest: IMAGE.layerDescriptors[0]?.digest, key: "k", sizeBytes: 8192 },
    { ms: 1, stream: 0, offset: 0, length },
    { file: "/bin/sh", parts: [[0, 0, 4096]] },
    { end: "time", reads: 1, dropped: 0 },
  ];
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
}

async function traceFile(text = traceText()): Promise<string> {
  const path = join(await tempDir(), "trace");
  await writeFile(path, text);
  return path;
}

const pushed = z.object({ digest: z.string() });
const list = z.looseObject({ manifests: z.array(z.looseObject({})) });

class Printed {
  text = "";
  write(text: string): void {
    this.text += text;
  }
}

async function pulled(reference: string, config?: string): Promise<string> {
  const printed = new Printed();
  await pullTrace({ reference, output: undefined, config }, printed);
  return printed.text;
}

async function listOf(host: string, repository: string) {
  const url = `http://${host}/v2/${repository}/manifests/${IMAGE_DIGEST.replace(":", "-")}`;
  const answer = await fetch(url, { headers: { accept: OCI_INDEX } });
  return list.parse(await answer.json());
}

describe("a registry without lists of referrers", () => {
  let registry: RunningRegistry;
  beforeAll(async () => {
    registry = await startDockerRegistry();
  });
  afterAll(() => registry.stop());

  async function pushedImage(repository: string): Promise<string> {
    await pushBuiltImage({ host: registry.host, repository }, "1", IMAGE);
    return `${registry.host}/${repository}:1`;
  }

  test("keeps a trace under the referrers tag, as an artifact that refers to the image", async () => {
    const reference = await pushedImage("plain");
    const printed = new Printed();
    await pushTrace({ file: await traceFile(), reference, json: true }, printed);
    expect(await pulled(reference)).toBe(traceText());
    expect(await pulled(`${registry.host}/plain@${IMAGE_DIGEST}`)).toBe(traceText());
    const { digest } = pushed.parse(JSON.parse(printed.text));
    const { manifests } = await listOf(registry.host, "plain");
    expect(manifests).toMatchObject([{ digest, artifactType: TRACE_ARTIFACT }]);
    const url = `http://${registry.host}/v2/plain/manifests/${digest}`;
    const stored = await fetch(url, { headers: { accept: OCI_MANIFEST } });
    expect(await stored.json()).toMatchObject({
      artifactType: TRACE_ARTIFACT,
      config: { mediaType: EMPTY_CONFIG.mediaType, size: 2 },
      subject: { mediaType: OCI_MANIFEST, digest: IMAGE_DIGEST, size: IMAGE.descriptor.size },
    });
  });

  test("has what others put into that list as before, and each trace once", async () => {
    const reference = await pushedImage("shared");
    const target = { host: registry.host, repository: "shared" };
    const bytes = Buffer.from("a signature");
    const blob = await pushBlob(target, bytes);
    await pushBlob(target, Buffer.from("{}"));
    const layer = { mediaType: "text/plain", ...blob };
    const subject = { mediaType: OCI_MANIFEST, digest: IMAGE_DIGEST, size: 1 };
    const built = buildArtifact({ artifactType: "a/signature", layer, subject }, "2020-01-01");
    const manifest = { bytes: built.bytes, mediaType: OCI_MANIFEST };
    await pushManifest(target, built.entry.digest, manifest);
    const foreign = { ...built.entry, annotations: { whose: "others" }, urls: ["a"] };
    const before = {
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: [foreign],
      annotations: {},
    };
    await pushManifest(target, IMAGE_DIGEST.replace(":", "-"), {
      bytes: Buffer.from(JSON.stringify(before)),
      mediaType: OCI_INDEX,
    });
    await pushTrace({ file: await traceFile(), reference, json: false }, new Printed());
    const newer = await traceFile(traceText(IMAGE_DIGEST, 8192));
    await pushTrace({ file: newer, reference, json: false }, new Printed());
    const after = await listOf(registry.host, "shared");
    expect(after).toMatchObject({ annotations: {} });
    expect(after.manifests[0]).toEqual(foreign);
    expect(after.manifests).toHaveLength(3);
    expect(await pulled(reference)).toBe(traceText(IMAGE_DIGEST, 8192));
  });

  test("loses no entry of two who push at once", async () => {
    const reference = await pushedImage("together");
    const files = await Promise.all(
      [4096, 8192].map((length) => traceFile(traceText(IMAGE_DIGEST, length))),
    );
    await Promise.all(
      files.map((file) => pushTrace({ file, reference, json: false }, new Printed())),
    );
    // Whoever was overwritten pushes again: nothing is stored twice.
    for (const file of files) await pushTrace({ file, reference, json: false }, new Printed());
    expect((await listOf(registry.host, "together")).manifests.length).toBeGreaterThanOrEqual(3);
  });

  test("is told to have no trace, and refuses one of another image", async () => {
    const reference = await pushedImage("none");
    expect(await pulled(reference).catch(codeOf)).toBe("trace_missing");
    const file = await traceFile(traceText(OTHER.descriptor.digest));
    const pushing = pushTrace({ file, reference, json: false }, new Printed());
    await expect(pushing).rejects.toThrow(/it is of somewhere\/app:1 .*, not of/);
    const damaged = await traceFile(traceText().slice(0, -20));
    const again = pushTrace({ file: damaged, reference, json: false }, new Printed());
    expect(await again.catch(codeOf)).toBe("trace_invalid");
    expect(await pulled(reference).catch(codeOf)).toBe("trace_missing");
  });

  test("shows what is in it, as a table and as JSON", async () => {
    const reference = await pushedImage("shown");
    await pushTrace({ file: await traceFile(), reference, json: false }, new Printed());
    const [one, other] = [new Printed(), new Printed()];
    await showTrace({ from: reference, json: false }, one);
    expect(one.text).toBe(
      "FIRST    READS  BYTES    FILE\n0.001 s  1      4.0 KiB  /bin/sh\n4.0 KiB in 1 files, 1 reads of somewhere/app:1\n",
    );
    await showTrace({ from: await traceFile(), json: true }, other);
    expect(JSON.parse(other.text)).toMatchObject({
      reads: 1,
      bytes: 4096,
      files: [{ path: "/bin/sh" }],
    });
  });
});

test("a private registry gets the credentials of docker's config, and a token to push with", async () => {
  const folder = await tempDir();
  const signer = await makeSigner(folder, "signer");
  const tokens = await startTokenServer(signer);
  tokens.users.set("alice", "secret-word");
  const rootcertbundle = signer.certificateFile;
  const realm = tokens.realm;
  const registry = await startDockerRegistry({
    tokens: { realm, service: SERVICE, issuer: ISSUER, rootcertbundle },
  });
  const open = await startDockerRegistry({ storage: registry.storage });
  try {
    await pushBuiltImage({ host: open.host, repository: "team/app" }, "1", IMAGE);
    const docker = join(folder, "docker", "config.json");
    await mkdir(join(folder, "docker"));
    const auth = Buffer.from("alice:secret-word").toString("base64");
    await writeFile(docker, JSON.stringify({ auths: { [registry.host]: { auth } } }));
    const config = join(folder, "config.toml");
    await writeFile(config, `[registry]\ndocker_config = ${JSON.stringify(docker)}\n`);
    const reference = `${registry.host}/team/app:1`;
    const file = await traceFile();
    await pushTrace({ file, reference, json: false, config }, new Printed());
    expect(await pulled(reference, config)).toBe(traceText());
    const scopes = tokens.requests.flatMap((request) => request.scopes);
    // The registry asks for the two in any order.
    expect(scopes.join("\n")).toMatch(/^repository:team\/app:(pull,push|push,pull)$/m);
    await writeFile(config, '[registry]\ndocker_config = ""\n');
    const nobody = pushTrace({ file, reference, json: false, config }, new Printed());
    expect(await nobody.catch(codeOf)).toBe("registry_unauthorized");
  } finally {
    await open.stop();
    await registry.stop();
    await tokens.close();
  }
});

describe("a registry that answers for itself", () => {
  const PACKED = gzipSync(traceText());
  const layer = {
    mediaType: "application/vnd.erofsd.trace.v1.ndjson+gzip",
    digest: sha256(PACKED),
    size: PACKED.length,
  };
  const subject = { mediaType: OCI_MANIFEST, digest: IMAGE_DIGEST, size: 1 };
  const right = { artifactType: TRACE_ARTIFACT, layer, subject };

  /** It has the image, and one artifact. */
  function serving(
    of: { artifact?: typeof right; blob?: Uint8Array; list?: Uint8Array; listed?: boolean } = {},
  ): Respond {
    const { artifact = right, blob = PACKED, listed = true } = of;
    const built = buildArtifact(artifact, "2026-01-01T00:00:00Z");
    const listBytes =
      of.list ?? Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [built.entry] }));
    const json = (type: string, bytes: Uint8Array) =>
      response(200, { "content-type": type }, bytes);
    return ({ path, headers }, socket) => {
      if (path.includes("/referrers/")) {
        socket.write(listed ? json(OCI_INDEX, listBytes) : json("text/html", Buffer.from("hello")));
      } else if (path.includes(`/manifests/${built.entry.digest}`)) {
        socket.write(json(OCI_MANIFEST, built.bytes));
      } else if (path.includes("/manifests/sha256-")) {
        socket.write(listed ? response(404) : json(OCI_INDEX, listBytes));
      } else if (path.includes("/manifests/")) {
        socket.write(json(OCI_MANIFEST, IMAGE.manifest.bytes));
      } else if (headers.has("range")) {
        const length = blob.length;
        const range = { "content-range": `bytes 0-${length - 1}/${length}` };
        socket.write(response(206, range, blob));
      } else socket.write(response(404));
    };
  }

  async function pulling(of: Parameters<typeof serving>[0]): Promise<string> {
    const server = await startScriptedServer(serving(of));
    try {
      return await pulled(`${server.host}/app:1`);
    } catch (error) {
      return codeOf(error);
    } finally {
      await server.close();
    }
  }

  test("is believed, by its own list or, where that is a page for people, by the tag", async () => {
    expect(await pulling({})).toBe(traceText());
    expect(await pulling({ listed: false })).toBe(traceText());
  });

  test("is not believed about bytes, subjects and sizes", async () => {
    const wrong = Buffer.from(PACKED);
    wrong[20] = (wrong[20] ?? 0) ^ 1;
    expect(await pulling({ blob: wrong })).toBe("digest_mismatch");
    const elsewhere = { ...subject, digest: OTHER.descriptor.digest };
    expect(await pulling({ artifact: { ...right, subject: elsewhere } })).toBe("manifest_invalid");
    const large = { ...layer, size: 2 ** 40 };
    expect(await pulling({ artifact: { ...right, layer: large } })).toBe("trace_invalid");
    const bomb = gzipSync(Buffer.alloc(64 << 20));
    const bombLayer = { ...layer, digest: sha256(bomb), size: bomb.length };
    expect(await pulling({ artifact: { ...right, layer: bombLayer }, blob: bomb })).toBe(
      "trace_invalid",
    );
    expect(await pulling({ list: Buffer.alloc(5 << 20, 32) })).toBe("registry_protocol");
    expect(await pulling({ list: Buffer.from("[]") })).toBe("manifest_invalid");
    const empty = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [{ digest: 1 }] }));
    expect(await pulling({ list: empty })).toBe("trace_missing");
  });
});

test("what was there stays when a trace cannot be pulled into a file", async () => {
  const output = join(await tempDir(), "trace");
  await writeFile(output, "mine");
  const server = await startScriptedServer((_, socket) => socket.write(response(404)));
  const reference = `${server.host}/app:1`;
  expect(await pullTrace({ reference, output }).catch(codeOf)).toBe("manifest_not_found");
  expect(await readFile(output, "utf8")).toBe("mine");
  await server.close();
});
