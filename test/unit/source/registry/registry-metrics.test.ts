// SPDX-License-Identifier: Apache-2.0
// What really happens to a registry client, as it shows in the metrics.
import { expect, it } from "vitest";
import { Metrics } from "../../../../src/platform/metrics.ts";
import { prometheusText } from "../../../../src/platform/prometheus.ts";
import { registryMetrics } from "../../../../src/source/registry/registry-metrics.ts";
import { createRegistrySource } from "../../../../src/source/registry/registry-source.ts";
import type { Urgency } from "../../../../src/source/source.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { digestOf } from "../../../support/oci-image.ts";
import { CONTENT } from "../../../support/registry-client.ts";
import {
  type Respond,
  response,
  rightAnswer,
  startScriptedServer,
} from "../../../support/scripted-server.ts";

const right: Respond = (request, socket) => socket.write(rightAnswer(request, CONTENT));
const errorAs200: Respond = (_, socket) =>
  socket.write(response(200, { "x-dragonfly-error-type": "backend" }));

it("requests, bytes, failures, peers and breakers have their lines, and no secret is in them", async () => {
  let isWell = true;
  const registry = await startScriptedServer(right);
  const proxy = await startScriptedServer((request, socket) => {
    (isWell ? right : errorAs200)(request, socket);
  });
  const metrics = new Metrics();
  const url = `http://me:proxysecret@${proxy.host}`;
  const clock = new FakeClock();
  const source = createRegistrySource({
    clock,
    random: () => 0,
    peers: { proxy: { url, fallback: true, checkIntervalMs: 5_000 }, hosts: [] },
    observe: registryMetrics(metrics),
  });
  const origin = { kind: "registry", host: registry.host, repository: "team/app" } as const;
  const blob = { origin, digest: digestOf(CONTENT), size: CONTENT.length };
  const read = (urgency: Urgency): Promise<void> =>
    source.readRange(blob, { offset: 0, length: 1_000 }, () => undefined, {
      signal: new AbortController().signal,
      deadlineMs: clock.nowMs() + 20_000,
      urgency,
    });
  await read("prefetch");
  isWell = false;
  for (let at = 0; at < 4; at += 1) await read("prefetch");
  const { text } = await prometheusText(metrics);
  const host = registry.host;
  expect(text.split("\n")).toEqual(
    expect.arrayContaining([
      `erofsd_registry_requests_total{host="${host}",via="peers"} 4`,
      `erofsd_registry_requests_total{host="${host}",via="direct"} 4`,
      `erofsd_registry_received_bytes_total{host="${host}",via="peers"} 1000`,
      `erofsd_registry_received_bytes_total{host="${host}",via="direct"} 4000`,
      `erofsd_registry_first_byte_seconds_count{host="${host}",via="direct"} 4`,
      `erofsd_registry_transfer_seconds_count{host="${host}",via="peers"} 1`,
      `erofsd_p2p_failures_total{proxy="${proxy.host}",cause="wrong_answer"} 3`,
      `erofsd_breaker_state{host="${proxy.host}"} 2`,
    ]),
  );
  expect(text).not.toContain("proxysecret");
  await source.close();
  await registry.close();
  await proxy.close();
});
