// SPDX-License-Identifier: Apache-2.0
// What the registry client tells its observer, as metrics. Hosts are named as in a URL; a proxy by
// host and port alone, for its address may hold a password.

import type { Metrics } from "../../platform/metrics.ts";
import type { RegistryObserver } from "./options.ts";

const FIRST_BYTE_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const TRANSFER_SECONDS = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const BREAKER_STATES = { closed: 0, "half-open": 1, open: 2 } as const;

export function registryMetrics(metrics: Metrics): Required<RegistryObserver> {
  const requests = metrics.counter({
    name: "erofsd_registry_requests_total",
    help: "Requests made, by host and by the way they went (direct, peers).",
    labels: ["host", "via"],
  });
  const received = metrics.counter({
    name: "erofsd_registry_received_bytes_total",
    help: "Bytes of bodies received, also of those that lost a race.",
    labels: ["host", "via"],
  });
  const failures = metrics.counter({
    name: "erofsd_registry_failures_total",
    help: "Tries that failed, by host and fault code.",
    labels: ["host", "code"],
  });
  const firstByte = metrics.histogram({
    name: "erofsd_registry_first_byte_seconds",
    help: "From a range request to the first byte of its body.",
    labels: ["host", "via"],
    buckets: FIRST_BYTE_SECONDS,
  });
  const transfer = metrics.histogram({
    name: "erofsd_registry_transfer_seconds",
    help: "From the first byte of a range to its last.",
    labels: ["host", "via"],
    buckets: TRANSFER_SECONDS,
  });
  return {
    request: (host, via) => requests({ host, via }, 1),
    bytes: (host, count, via) => received({ host, via }, count),
    failure: (host, code) => failures({ host, code }, 1),
    firstByte: (host, via, elapsedMs) => firstByte({ host, via }, elapsedMs / 1000),
    transfer: (host, via, elapsedMs) => transfer({ host, via }, elapsedMs / 1000),
    ...racing(metrics),
  };
}

function racing(metrics: Metrics) {
  const hedges = metrics.counter({
    name: "erofsd_registry_hedges_total",
    help: "Late demand requests made a second time (started), and those where that was faster (won).",
    labels: ["host", "event"],
  });
  const races = metrics.counter({
    name: "erofsd_p2p_races_total",
    help: "Requests that both peers and registry were asked for (started), and who was first.",
    labels: ["host", "event"],
  });
  const peerFailures = metrics.counter({
    name: "erofsd_p2p_failures_total",
    help: "Failures of a peer-to-peer proxy, by cause.",
    labels: ["proxy", "cause"],
  });
  const breakers = metrics.gauge({
    name: "erofsd_breaker_state",
    help: "0: asked as usual, 1: tried again with one request, 2: left out for a while.",
    labels: ["host"],
  });
  return {
    hedge: (host: string, event: string) => hedges({ host, event }, 1),
    peerRace: (host: string, event: string) => races({ host, event }, 1),
    peerFailure: (proxy: string, cause: string) => peerFailures({ proxy, cause }, 1),
    breaker: (host: string, state: keyof typeof BREAKER_STATES) =>
      breakers({ host }, BREAKER_STATES[state]),
  };
}
