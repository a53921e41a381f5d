// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { Metrics } from "../../../src/platform/metrics.ts";
import { prometheusText } from "../../../src/platform/prometheus.ts";

function countRequests(): { metrics: Metrics; add: (host: string) => void } {
  const metrics = new Metrics();
  const requests = metrics.counter({ name: "requests_total", help: "Asked.", labels: ["host"] });
  return { metrics, add: (host) => requests({ host }, 1) };
}

it("gives sums, states and distributions in Prometheus' text format", async () => {
  const { metrics, add } = countRequests();
  add("a");
  add("a");
  metrics.gauge({ name: "breaker", help: "State.", labels: ["host"] })({ host: "a" }, 2);
  const seconds = { name: "first_byte_seconds", help: "Time.", labels: ["host", "via"] as const };
  const observe = metrics.histogram({ ...seconds, buckets: [0.01, 0.1] });
  observe({ host: "a", via: "direct" }, 0.05);
  const lines = (await prometheusText(metrics)).text.split("\n");
  expect(lines).toContain("# TYPE requests_total counter");
  expect(lines).toContain('requests_total{host="a"} 2');
  expect(lines).toContain('breaker{host="a"} 2');
  expect(lines).toContain('first_byte_seconds_bucket{le="0.01",host="a",via="direct"} 0');
  expect(lines).toContain('first_byte_seconds_bucket{le="0.1",host="a",via="direct"} 1');
  expect(lines).toContain('first_byte_seconds_sum{host="a",via="direct"} 0.05');
  expect((await prometheusText(metrics)).contentType).toMatch(/^text\/plain; version=0\.0\.4/);
});

it("does not grow with the number of hosts: the 65th and later are one", async () => {
  const { metrics, add } = countRequests();
  for (let at = 0; at < 1_000; at += 1) add(`host${at}`);
  add("host3");
  const lines = (await prometheusText(metrics)).text
    .split("\n")
    .filter((line) => line.startsWith("requests"));
  expect(lines).toHaveLength(65);
  expect(lines).toContain('requests_total{host="host3"} 2');
  expect(lines).toContain('requests_total{host="other"} 936');
});
