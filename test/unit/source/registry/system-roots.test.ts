// SPDX-License-Identifier: Apache-2.0
// Authorities of this machine, beside Node's own.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { rootCertificates } from "node:tls";
import { expect, it } from "vitest";
import { readSystemRoots } from "../../../../src/source/registry/system-roots.ts";
import { certify } from "../../../support/certify.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { CONTENT, startClient } from "../../../support/registry-client.ts";
import { rightAnswer } from "../../../support/scripted-server.ts";
import { tempDir } from "../../../support/temp-dir.ts";

it("are those of the first bundle there is, without what Node has itself", async () => {
  const folder = await tempDir();
  const { caFile } = await certify();
  const bundle = join(folder, "bundle.crt");
  const [first = "", second = ""] = rootCertificates;
  await writeFile(bundle, `# one\n${first}\n${await readFile(caFile, "utf8")}\n${second}\n`);
  const found = await readSystemRoots({}, [join(folder, "none"), bundle, caFile], []);
  expect(found).toHaveLength(1);
  expect(found[0]?.trim()).toBe((await readFile(caFile, "utf8")).trim());
});

it("are those of a folder when there is no bundle, or SSL_CERT_DIR names one", async () => {
  const folder = await tempDir();
  const [one, two] = [await certify(), await certify()];
  await mkdir(join(folder, "certs"));
  await copyFile(one.caFile, join(folder, "certs", "one.pem"));
  const certs = join(folder, "certs");
  expect(await readSystemRoots({}, [], [certs])).toHaveLength(1);
  expect(await readSystemRoots({}, [two.caFile], [certs])).toHaveLength(1);
  const both = { SSL_CERT_FILE: two.caFile, SSL_CERT_DIR: `${folder}/none:${certs}` };
  expect(await readSystemRoots(both, ["/none"], [])).toHaveLength(2);
});

it("are none where there is nothing, and nothing is wrong with that", async () => {
  expect(await readSystemRoots({ SSL_CERT_FILE: "/none/such" }, [], ["/none/such"])).toEqual([]);
});

it("are trusted by the client, and broken ones among them passed over", async () => {
  const { caFile, ...tls } = await certify();
  const folder = await tempDir();
  const bundle = join(folder, "bundle.crt");
  const broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
  await writeFile(bundle, broken + (await readFile(caFile, "utf8")));
  const options = { plainHttp: () => false, attemptsMax: 1 };
  const extent = { offset: 10, length: 500 };
  await using client = await startClient(
    (request, socket) => socket.write(rightAnswer(request, CONTENT)),
    { tls, options, environment: { SSL_CERT_FILE: bundle } },
  );
  expect(sameBytes(await client.read(extent), CONTENT.subarray(10, 510))).toBe(true);
});
