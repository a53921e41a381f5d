// SPDX-License-Identifier: Apache-2.0
// What the engine tells, as metrics.

import type { Metrics } from "../platform/metrics.ts";
import type { FlowObserver } from "./flow-observer.ts";

const WAIT_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30];
const PHASE_SECONDS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5];

export function flowMetrics(metrics: Metrics): FlowObserver {
  return { ...readMetrics(metrics), ...fillMetrics(metrics) };
}

function readMetrics(metrics: Metrics): Pick<FlowObserver, "answered"> {
  const reads = metrics.counter({
    name: "erofsd_reads_total",
    help: "READs answered, by what they found: hit (all cached; not every door asks then), joined (on its way), fetched.",
    labels: ["found"],
  });
  const bytes = metrics.counter({
    name: "erofsd_read_bytes_total",
    help: "Bytes that READs asked for.",
    labels: ["found"],
  });
  const wait = metrics.histogram({
    name: "erofsd_miss_duration_seconds",
    help: "How long a reader waited for what was not cached, failures included.",
    labels: [],
    buckets: WAIT_SECONDS,
  });
  const failed = metrics.counter({
    name: "erofsd_failed_reads_total",
    help: "READs that failed, by fault code and by the host of their bytes.",
    labels: ["code", "host"],
  });
  return {
    answered({ found, extent, elapsedMs, code, host }) {
      reads({ found }, 1);
      bytes({ found }, extent.length);
      if (found !== "hit" || code !== undefined) wait({}, elapsedMs / 1000);
      if (code !== undefined) failed({ code, host }, 1);
    },
  };
}

function fillMetrics(metrics: Metrics): Omit<FlowObserver, "answered"> {
  const fetched = metrics.counter({
    name: "erofsd_fetched_bytes_total",
    help: "Stored bytes fetched, by why: demand (a reader waits), ahead (read-ahead), prefetch.",
    labels: ["urgency"],
  });
  const wasted = metrics.counter({
    name: "erofsd_wasted_bytes_total",
    help: "Of the bytes fetched, those thrown away: bad ones, and of fills that were given up.",
    labels: ["urgency"],
  });
  const fills = metrics.counter({
    name: "erofsd_fills_total",
    help: "Fills ended, by why they were made and how they ended.",
    labels: ["urgency", "result"],
  });
  const failures = metrics.counter({
    name: "erofsd_fill_failures_total",
    help: "Fills of which some failed, by fault code and host.",
    labels: ["code", "host"],
  });
  const phases = metrics.histogram({
    name: "erofsd_fill_phase_seconds",
    help: "Time in a phase: queue, first_byte, transfer, decode, verify (a unit each), write, reply.",
    labels: ["phase"],
    buckets: PHASE_SECONDS,
  });
  return {
    fetched(urgency, bytes) {
      fetched({ urgency }, bytes);
    },
    fillEnded({ urgency, code, host, wastedBytes }) {
      const isCancelled = code === "cancelled" || code === "stopping";
      const failure = isCancelled ? undefined : code;
      const result = isCancelled ? "cancelled" : failure === undefined ? "done" : "failed";
      fills({ urgency, result }, 1);
      if (wastedBytes > 0) wasted({ urgency }, wastedBytes);
      if (failure !== undefined) failures({ code: failure, host }, 1);
    },
    phase(phase, elapsedMs) {
      phases({ phase }, elapsedMs / 1000);
    },
  };
}
