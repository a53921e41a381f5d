// SPDX-License-Identifier: Apache-2.0
// Looking at a daemon that really serves: its metrics on both sockets, and what its log at level trace
// says of one read.

import { randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { flowMetrics } from "../../src/flow/flow-metrics.ts";
import { Metrics } from "../../src/platform/metrics.ts";
import { registryMetrics } from "../../src/source/registry/registry-metrics.ts";
import type { LogLine } from "../support/daemon.ts";
import { type Asked, parseQuery, readDashboard } from "../support/dashboard.ts";
import { mkfsErofs } from "../support/mkfs.ts";
import { freePort } from "../support/port.ts";
import { LARGE_BYTES, writeHostTree } from "./support/content.ts";
import { Site, end, must } from "./support/site.ts";

const timeout = 120_000;

let site: Site;
let mounted: string;
let port: number;

beforeAll(async () => {
  port = await freePort();
  const config = `metrics.listen = "127.0.0.1:${port}"`;
  site = await Site.start({ logLevel: "trace", config });
  const tree = await writeHostTree(site.home);
  const image = join(site.home, "image.erofs");
  await mkfsErofs(image, tree, []);
  mounted = await site.mount(await site.pushRaw(image, "metrics"));
}, timeout);

afterAll(() => site.stop(), timeout);

const scrape = async (): Promise<string> =>
  (await fetch(`http://127.0.0.1:${port}/metrics`)).text();

function valueOf(text: string, series: string): number {
  const line = text.split("\n").find((each) => each.startsWith(`${series} `));
  return line === undefined ? 0 : Number(line.slice(series.length + 1));
}

test(
  "a read is traceable by one id, from the kernel's message to the reply",
  async () => {
    await must("dd", [
      `if=${join(mounted, "large")}`,
      "of=/dev/null",
      "bs=4096",
      "count=1",
      "skip=2000",
    ]);
    // What the read itself asked for, not the mount before it.
    const isRead = ({ msg, kernel }: LogLine): boolean =>
      msg === "kernel READ" && String(kernel).startsWith("access to");
    const miss = (await site.daemon.untilLogged(isRead))["miss"];
    await site.daemon.untilLogged((line) => line.msg === "fetch ended" && line["miss"] === miss);
    const of = site.daemon.log.filter((line) => line["miss"] === miss);
    const told = [...new Set(of.map(({ msg }) => msg))];
    expect(told).toEqual(
      expect.arrayContaining(["kernel READ", "fetch", "registry request", "reply", "fetch ended"]),
    );
    expect(told[0]).toBe("kernel READ");
    const [request] = of.filter(({ msg }) => msg === "registry request");
    const [fetch] = of.filter((line) => line["fetch"] === request?.["fetch"]);
    expect(request).toMatchObject({ host: site.host, via: "direct" });
    expect(String(request?.["range"])).toMatch(/^bytes=[0-9]+-[0-9]+$/);
    expect(fetch).toMatchObject({ msg: "fetch", miss });
  },
  timeout,
);

test(
  "what readers got is counted, on the socket and on the port alike",
  async () => {
    await must("cat", [join(mounted, "large")]);
    const text = await scrape();
    const misses = valueOf(text, 'erofsd_reads_total{found="fetched"}');
    expect(misses).toBeGreaterThan(0);
    const fetched = ["demand", "ahead", "prefetch"].reduce(
      (sum, urgency) => sum + valueOf(text, `erofsd_fetched_bytes_total{urgency="${urgency}"}`),
      0,
    );
    expect(fetched).toBeGreaterThanOrEqual(LARGE_BYTES);
    expect(valueOf(text, "erofsd_cache_written_bytes_total")).toBeGreaterThanOrEqual(LARGE_BYTES);
    for (const phase of ["queue", "first_byte", "transfer", "write", "reply"]) {
      expect(valueOf(text, `erofsd_fill_phase_seconds_count{phase="${phase}"}`)).toBeGreaterThan(0);
    }
    expect(valueOf(text, "erofsd_open_objects")).toBe(1);
    expect(valueOf(text, "process_resident_memory_bytes")).toBeGreaterThan(1 << 20);
    expect(valueOf(text, "erofsd_event_loop_delay_seconds_count")).toBeGreaterThan(0);
    const args = ["-s", "--unix-socket", site.daemon.socketPath, "http://erofsd/v1/metrics"];
    const other = await must("curl", args);
    const names = (of: string): string[] =>
      of.split("\n").filter((line) => line.startsWith("# TYPE"));
    expect(names(other)).toEqual(names(text));
  },
  timeout,
);

test(
  "names and units are as Prometheus asks, and every metric says what it is",
  async () => {
    const text = await scrape();
    const types = [...text.matchAll(/^# TYPE (\S+) (\S+)/gm)];
    expect(types.length).toBeGreaterThan(25);
    for (const [, name = "", kind = ""] of types) {
      expect(name).toMatch(/^(erofsd|process)_[a-z0-9_]+$/);
      // promtool: counters end so, and nothing else does; base units alone.
      expect([name, name.endsWith("_total")]).toEqual([name, kind === "counter"]);
      expect(name).not.toMatch(/milliseconds|_ms\b|kilobytes|_kb\b|percent|_(sum|count|bucket)$/);
      expect(text).toMatch(new RegExp(`^# HELP ${name} .{5,}`, "m"));
    }
    expect(text).not.toMatch(/NaN/);
  },
  timeout,
);

test(
  "all that the dashboard shows is there, by the labels that it asks for",
  async () => {
    await failReading();
    const shown = familiesOf(await scrape());
    const known = new Metrics();
    flowMetrics(known);
    registryMetrics(known);
    const declared = new Map((await known.read()).map(({ name, labels }) => [name, labels]));
    let seen = 0;
    for (const { metric, labels, isRated } of await askedByDashboard()) {
      const family = shown.get(metric) ?? shown.get(metric.replace(/_(bucket|sum|count)$/, ""));
      expect([metric, family?.kind]).not.toEqual([metric, undefined]);
      const { name, kind, series } = family ?? NO_FAMILY;
      expect([metric, isRated]).toEqual([metric, isRated && kind !== "gauge"]);
      expect([metric, metric !== name]).toEqual([metric, kind === "histogram"]);
      // Nothing that may happen has happened yet: then the metric's own definition tells.
      const there = series.get(metric) ?? new Set(declared.get(name));
      if (series.has(metric)) seen += 1;
      // Prometheus itself adds the instance.
      const missing = labels.filter((label) => label !== "instance" && !there.has(label));
      expect([metric, missing]).toEqual([metric, []]);
    }
    expect(seen).toBeGreaterThan(20);
  },
  timeout,
);

async function askedByDashboard(): Promise<Asked[]> {
  const { panels, templating } = await readDashboard();
  const queries = panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
  // label_values(metric, label) is Grafana's own.
  const listed = templating.list.flatMap(
    ({ definition }) => /^label_values\((.+), *\w+\)$/.exec(definition ?? "")?.[1] ?? [],
  );
  expect(listed.length).toBe(1);
  return [...queries, ...listed].flatMap(parseQuery);
}

/** A read that nobody can answer. */
async function failReading(): Promise<void> {
  const tree = join(site.home, "unreadable");
  await mkdir(tree);
  await writeFile(join(tree, "large"), randomBytes(LARGE_BYTES));
  const image = join(site.home, "unreadable.erofs");
  await mkfsErofs(image, tree, []);
  const directory = await site.mount(await site.pushRaw(image, "unreadable"));
  await site.stopRegistry();
  expect((await end("cat", [join(directory, "large")])).code).not.toBe(0);
  await site.startRegistry();
  await site.umount(directory);
}

interface Shown {
  readonly name: string;
  readonly kind: string;
  /** The labels of each name that it has lines of. */
  readonly series: ReadonlyMap<string, ReadonlySet<string>>;
}

const NO_FAMILY: Shown = { name: "", kind: "", series: new Map() };

function familiesOf(text: string): Map<string, Shown> {
  const families = new Map<string, Shown>();
  let series = new Map<string, Set<string>>();
  for (const line of text.split("\n")) {
    const [, name, kind] = /^# TYPE (\S+) (\S+)/.exec(line) ?? [];
    if (name !== undefined && kind !== undefined) {
      series = new Map();
      families.set(name, { name, kind, series });
    }
    const [, metric, labels = ""] = /^([a-z]\w*)(?:\{(.*)\})? /.exec(line) ?? [];
    if (metric === undefined) continue;
    const of = series.get(metric) ?? new Set();
    series.set(metric, of);
    for (const [, label = ""] of labels.matchAll(/(\w+)="/g)) of.add(label);
  }
  return families;
}

test(
  "a restart is counted by what ended the daemon before",
  async () => {
    await site.umountAll();
    await site.untilIdle();
    await site.restart();
    // Counted a moment after the daemon is ready.
    const counted = (cause: string) => async () =>
      valueOf(await scrape(), `erofsd_restarts_total{cause="${cause}"}`) === 1;
    await site.until("a restart after a stop", counted("stopped"));
    await site.crash(() => Promise.resolve());
    await site.until("a restart after a death", counted("died"));
    expect(valueOf(await scrape(), 'erofsd_restarts_total{cause="stopped"}')).toBe(1);
  },
  timeout,
);
