// SPDX-License-Identifier: Apache-2.0
// The report in a browser: it needs nothing, complains of nothing, can be read by day and by night,
// and does nothing that a file's name says.

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeReport } from "../../../src/cli/report/model.ts";
import { reportPage } from "../../../src/cli/report/page.ts";
import { type ImageHistory, imageHistory } from "../../../src/control/history-schema.ts";
import { BLOCK_BYTES, MIB } from "../../../src/units.ts";
import { Chromium, type Page } from "../../support/chromium.ts";
import { seededRandom } from "../../support/seeded-random.ts";

const HOSTILE = [
  '/<script>document.title="owned"</script>',
  '/"><img src=http://127.0.0.1:9/x onerror=alert(1)>',
  "/</title></style></svg><h1>owned</h1>",
  "/a&lt;b\u0000\u001b[31m'`${x}",
];
const NAMES = ["/usr/bin/python3.11", "/usr/lib/libc.so.6", "/opt/app/main.py", ...HOSTILE];
const FILE_BYTES = 4 * MIB;

/** Some seconds of a program's start, as an image of two streams saw them. */
function history(): ImageHistory {
  const random = seededRandom(3);
  const streams = [64 * MIB, 300 * MIB].map((sizeBytes, n) => {
    const waits: [number, number, number, number][] = [];
    const fills: [number, number, number, number, number][] = [];
    for (let at = 5; at < 4000; at += random.between(10, 80)) {
      const offset = random.between(0, sizeBytes / BLOCK_BYTES - 300) * BLOCK_BYTES;
      const ms = random.between(20, 120);
      if (random.between(0, 3) > 0) waits.push([at, at + ms, offset, 16 * BLOCK_BYTES]);
      fills.push([at, at + ms + 20, offset, 256 * BLOCK_BYTES, random.between(0, 2)]);
    }
    const cells = Array.from({ length: 1024 }, (_, cell) => {
      const bytes = sizeBytes / 1024;
      const isFilled = fills.some(
        ([, , offset, length]) => offset < (cell + 1) * bytes && offset + length > cell * bytes,
      );
      return isFilled ? random.between(30, 100) : random.between(0, 9) === 0 ? 100 : 0;
    });
    return {
      digest: `sha256:${String(n).repeat(64)}`,
      role: n === 0 ? ("bootstrap" as const) : ("device" as const),
      sizeBytes,
      cachedBytes: sizeBytes / 4,
      fetchedBytes: sizeBytes / 5,
      open: true,
      cached: cells,
      waits,
      laterWaits: n,
      fills,
      laterFills: 0,
    };
  });
  const about = { reference: "registry.example/team/<b>app</b>:1", format: "rafs" as const };
  const times = { startedAt: "2026-01-31T12:00:00.000Z", ms: 4200 };
  return { ...about, ...times, manifestDigest: `sha256:${"f".repeat(64)}`, streams };
}

function page(): string {
  const files = NAMES.map((file, n) => ({
    file,
    parts: [0, 1].map((stream): [number, number, number] => [
      stream,
      2 * n * FILE_BYTES,
      FILE_BYTES,
    ]),
  }));
  return reportPage(makeReport(imageHistory.parse(history()), files));
}

describe("a report", () => {
  let browser: Chromium;
  let shown: Page;
  let folder: string;
  let path: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "erofsd-report-"));
    path = join(folder, "report.html");
    browser = await Chromium.start();
    await writeFile(path, page());
    shown = await browser.open(path);
  }, 60_000);
  afterAll(async () => {
    await browser.stop();
    await rm(folder, { recursive: true });
  });

  test("renders without an error, and asks nobody for anything", async () => {
    expect(shown.problems).toEqual([]);
    expect(shown.requests).toEqual([]);
    const count = (selector: string) =>
      shown.evaluate(`document.querySelectorAll(${JSON.stringify(selector)}).length`);
    expect(await count("svg.map")).toBe(2);
    expect(await count("svg.map rect")).toBeGreaterThan(2 * 1024);
    expect(await count("svg.fall rect.wait")).toBe(60);
    expect(await count("table tbody tr")).toBeGreaterThan(20);
    expect(await count("script, img, link, iframe, object")).toBe(0);
  });

  test("shows hostile names as text", async () => {
    expect(await shown.evaluate("document.title")).toBe(
      "How registry.example/team/<b>app</b>:1 was read",
    );
    expect(await shown.evaluate("document.querySelectorAll('h1').length")).toBe(1);
    const text = String(await shown.evaluate("document.body.textContent"));
    for (const name of HOSTILE.slice(0, 3)) expect(text).toContain(name);
  });

  test("has text that can be selected, in tables and pictures", async () => {
    const selected = await shown.evaluate(`(() => {
      getSelection().selectAllChildren(document.body);
      return getSelection().toString();
    })()`);
    expect(String(selected)).toContain("/usr/bin/python3.11");
    expect(String(selected)).toContain("Time lost by file");
    const inPicture = await shown.evaluate(`(() => {
      getSelection().selectAllChildren(document.querySelector("svg.fall"));
      return getSelection().toString();
    })()`);
    expect(String(inPicture)).toContain("ms");
  });

  test.each(["light", "dark"] as const)("can be read in %s", async (scheme) => {
    await shown.evaluate("getSelection().removeAllRanges()");
    const shot = await shown.screenshot(scheme);
    expect(shot.length).toBeGreaterThan(20_000);
    const keep = process.env["EROFSD_SCREENSHOTS"];
    if (keep !== undefined) {
      await mkdir(keep, { recursive: true });
      await writeFile(join(keep, `report-${scheme}.png`), shot);
    }
    // WCAG 2.2, 1.4.3: 4.5 to 1 for text.
    const worst = await shown.evaluate(`(() => {
      const parse = (text) => text.match(/[\\d.]+/g).map(Number);
      const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
      const behind = (element) => {
        for (let at = element; at !== null; at = at.parentElement) {
          const rgb = parse(getComputedStyle(at).backgroundColor);
          if (rgb.length === 3 || rgb[3] > 0) return rgb;
        }
        return [255, 255, 255];
      };
      let worst = 99;
      for (const element of document.querySelectorAll("h1,h2,p,td,th,dt,dd,code,b,figcaption,.legend span,svg text")) {
        const style = getComputedStyle(element);
        const text = light(parse(element instanceof SVGElement ? style.fill : style.color));
        const page = light(behind(element));
        worst = Math.min(worst, (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05));
      }
      return worst;
    })()`);
    expect(Number(worst)).toBeGreaterThan(4.5);
  });

  test("fits a narrow window: nothing but its tables scrolls sideways", async () => {
    const narrow = await browser.open(path, 500);
    expect(await narrow.evaluate("document.documentElement.scrollWidth <= window.innerWidth")).toBe(
      true,
    );
  });
});

describe("an image that nobody has read", () => {
  test("has a report that says so", () => {
    const { streams, ...about } = history();
    const none = streams.map((stream) => ({ ...stream, waits: [], fills: [], open: false }));
    const text = reportPage(makeReport({ ...about, streams: none }, []));
    expect(text).toContain("No reader has waited");
    expect(text).not.toContain("NaN");
    expect(text).not.toContain("Infinity");
  });
});
