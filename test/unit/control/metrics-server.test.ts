// SPDX-License-Identifier: Apache-2.0
// The metrics' own port: what it gives, what it refuses, and where it may be.

import { expect, onTestFinished, test } from "vitest";
import { formatAddress, parseAddress } from "../../../src/config/listen-address.ts";
import { parseConfig } from "../../../src/config/config.ts";
import { serveMetrics } from "../../../src/control/metrics-server.ts";
import { faultFrom } from "../../support/faults.ts";

async function start(read = () => Promise.resolve({ contentType: "text/plain", text: "up 1\n" })) {
  const server = await serveMetrics({ host: "127.0.0.1", port: 0 }, read);
  onTestFinished(() => server.close());
  return { server, url: `http://${formatAddress(server.address)}` };
}

test("gives metrics and nothing else", async () => {
  const { url } = await start();
  const answer = await fetch(`${url}/metrics?x=1`);
  expect([answer.status, await answer.text()]).toEqual([200, "up 1\n"]);
  for (const path of ["/", "/v1/images", "/metrics/", "/v1/config"]) {
    expect((await fetch(`${url}${path}`)).status).toBe(404);
  }
  const posted = await fetch(`${url}/metrics`, { method: "POST", body: "x" });
  expect([posted.status, posted.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
});

test("a failure says nothing of itself", async () => {
  const { url } = await start(() => Promise.reject(new Error("password hunter2")));
  const answer = await fetch(`${url}/metrics`);
  expect([answer.status, await answer.text()]).toEqual([500, "failed\n"]);
});

test("a port in use is a fault of the configuration", async () => {
  const { server } = await start();
  const again = serveMetrics(server.address, () => Promise.reject(new Error("never")));
  const where = formatAddress(server.address);
  const detail = `${where} cannot be listened at: EADDRINUSE`;
  expect(await faultFrom(again)).toEqual({
    code: "config_invalid",
    where: "metrics.listen",
    detail,
  });
});

test.each([
  ["127.0.0.1:9464", { host: "127.0.0.1", port: 9464 }],
  ["127.8.9.10:1", { host: "127.8.9.10", port: 1 }],
  ["[::1]:9464", { host: "::1", port: 9464 }],
])("%s is loopback", (text, wanted) => {
  expect(parseAddress(text)).toEqual(wanted);
  expect(parseConfig(`metrics.listen = "${text}"`, "test").metrics.listen).toBe(text);
  expect(formatAddress(wanted)).toBe(text);
});

test.each([
  "0.0.0.0:9464",
  "10.0.0.1:9464",
  "[::]:9464",
  "[fe80::1]:9464",
  "[::ffff:10.0.0.1]:9464",
  "localhost:9464",
  "127.0.0.1",
  ":9464",
  "127.0.0.1:99999",
  "127.0.0.1:-1",
  "[127.0.0.1]:1",
  "::1:9464",
  "127.1:80",
  "",
])("%j is refused, by name", (text) => {
  expect(() => parseConfig(`metrics.listen = "${text}"`, "test")).toThrow(/metrics\.listen: 127/);
});
