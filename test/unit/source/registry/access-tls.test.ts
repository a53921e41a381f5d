// SPDX-License-Identifier: Apache-2.0
// A registry whose certificate nobody knows: trusted through a file, or not looked at.
import { expect, it } from "vitest";
import { AccessBook, type AccessProfile } from "../../../../src/source/registry/access.ts";
import { sameBytes } from "../../../support/bytes.ts";
import { certify } from "../../../support/certify.ts";
import { CONTENT, type ClientFixture, startClient } from "../../../support/registry-client.ts";
import { rightAnswer } from "../../../support/scripted-server.ts";

const EXTENT = { offset: 10, length: 500 };

async function startTLS(
  profileOf: (caFile: string) => AccessProfile,
): Promise<ClientFixture & AsyncDisposable> {
  const access = new AccessBook();
  const tls = await certify();
  const options = { attemptsMax: 1 };
  const client = await startClient(
    (request, socket) => socket.write(rightAnswer(request, CONTENT)),
    { access, tls, options },
  );
  access.set(client.server.host, "team/app", { scheme: "https", ...profileOf(tls.caFile) });
  return client;
}

it("is not believed as it is, also on loopback when the profile says https", async () => {
  await using client = await startTLS(() => ({}));
  const { fault } = await client.readFault(EXTENT);
  expect(fault.code).toBe("registry_unreachable");
  expect("detail" in fault ? fault.detail : "").toMatch(/^TLS failed/);
});

it.each<[string, (caFile: string) => AccessProfile]>([
  ["with its CA's file", (caFile) => ({ caFiles: [caFile] })],
  ["without verification", () => ({ skipVerify: true })],
])("is read %s", async (_, profileOf) => {
  await using client = await startTLS(profileOf);
  expect(sameBytes(await client.read(EXTENT), CONTENT.subarray(10, 510))).toBe(true);
});

it("does not make others careless: connections are of their profile", async () => {
  const access = new AccessBook();
  const tls = await certify();
  const options = { attemptsMax: 1 };
  await using client = await startClient(
    (request, socket) => socket.write(rightAnswer(request, CONTENT)),
    { access, tls, options },
  );
  const { host } = client.server;
  access.set(host, "team/app", { scheme: "https", skipVerify: true });
  await client.read(EXTENT);
  access.set(host, "team/app", { scheme: "https" });
  expect((await client.readFault(EXTENT)).fault.code).toBe("registry_unreachable");
});

it("says that the file of certificates is missing", async () => {
  await using client = await startTLS((caFile) => ({ caFiles: [`${caFile}.gone`] }));
  const { fault } = await client.readFault(EXTENT);
  expect("detail" in fault ? fault.detail : "").toMatch(/ENOENT.*ca\.pem\.gone/);
});
