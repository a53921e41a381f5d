// SPDX-License-Identifier: Apache-2.0
// What the kernel's trust hangs on: for one key, one copen size never stands for two contents.

import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Bindings, type Content, isSameImage } from "../../../src/state/bindings.ts";
import type { Digest } from "../../../src/units.ts";
import { codeOf, rejectionOf } from "../../support/fault-code.ts";
import { asDigest } from "../../support/flow-rig.ts";
import { fuzzRuns } from "../../support/fuzz-runs.ts";
import { tempDir } from "../../support/temp-dir.ts";

const NAME = { volumeKey: "erofs,erofsd", cookieKey: "registry.example/app:v1" };
const origin = { kind: "registry", host: "registry.example", repository: "app" } as const;

function digest(n: number): Digest {
  return asDigest(n.toString(16).padStart(64, "0"));
}

function content(n: number, size = 10_000, devices: number[] = []): Content {
  return {
    reference: NAME.cookieKey,
    manifestDigest: digest(1000 + n),
    stream: { digest: digest(n), size, origin },
    devices: devices.map((id) => ({ digest: digest(id), size: 4096, origin })),
  };
}

async function fresh(): Promise<{
  bindings: Bindings;
  path: string;
  reload: () => Promise<Bindings>;
}> {
  const path = join(await tempDir(), "state", "bindings.json");
  const reload = async (): Promise<Bindings> => {
    const bindings = new Bindings(path);
    expect(await bindings.load()).toBe("loaded");
    return bindings;
  };
  return { bindings: new Bindings(path), path, reload };
}

describe("the size given for a key that may move", () => {
  test("tells any two contents apart, and stays the same for one, across reloads", async () => {
    const sizes = fc.constantFrom(1, 4095, 4096, 4097, 8192, 12_288);
    // A content's real size never changes: its digest covers it.
    const history = fc.tuple(
      fc.array(sizes, { minLength: 5, maxLength: 5 }),
      fc.array(fc.tuple(fc.nat(4), fc.boolean()), { minLength: 1, maxLength: 12 }),
    );
    await fc.assert(
      fc.asyncProperty(history, async ([realSizes, steps]) => {
        const { bindings: first, reload } = await fresh();
        let bindings = first;
        const given = new Map<number, number>();
        for (const [n, restarts] of steps) {
          const realSize = realSizes[n] ?? 1;
          await bindings.bind(NAME, content(n, realSize));
          const size = await bindings.copenSize(NAME);
          expect(size).toBeGreaterThanOrEqual(realSize);
          expect(size % 4096).toBe(0);
          expect(given.get(n) ?? size).toBe(size);
          given.set(n, size);
          expect(new Set(given.values()).size).toBe(given.size);
          if (restarts) bindings = await reload();
        }
      }),
      { numRuns: fuzzRuns(40) },
    );
  }, 60_000);

  test("is on disk before it is told", async () => {
    const { bindings, path } = await fresh();
    await bindings.bind(NAME, content(1));
    const size = await bindings.copenSize(NAME);
    expect(await readFile(path, "utf8")).toContain(`"copenSize":${size}`);
  });

  test("is told only once it is on disk, also when the first save of it failed", async () => {
    const { bindings, path } = await fresh();
    await bindings.bind(NAME, content(1));
    await mkdir(`${path}.new`);
    await expect(bindings.copenSize(NAME)).rejects.toThrow();
    await expect(bindings.copenSize(NAME)).rejects.toThrow();
    await rm(`${path}.new`, { recursive: true });
    const size = await bindings.copenSize(NAME);
    expect(await readFile(path, "utf8")).toContain(`"copenSize":${size}`);
  });

  test("is kept apart for each key and volume", async () => {
    const { bindings } = await fresh();
    const other = { ...NAME, volumeKey: "erofs,other" };
    await bindings.bind(NAME, content(1));
    await bindings.bind(other, content(2));
    expect(await bindings.copenSize(NAME)).toBe(await bindings.copenSize(other));
  });

  test.each(["__proto__", "constructor", "toString"])(
    "is remembered for the key %s",
    async (key) => {
      const { bindings, reload } = await fresh();
      const name = { ...NAME, cookieKey: key };
      await bindings.bind(name, content(1));
      const size = await bindings.copenSize(name);
      const later = await reload();
      await later.bind(name, content(2));
      expect(await later.copenSize(name)).not.toBe(size);
    },
  );
});

describe("a digest key", () => {
  test("gets the real size, unrounded", async () => {
    const { bindings } = await fresh();
    const name = { ...NAME, cookieKey: digest(1) };
    await bindings.bind(name, content(1, 10_001));
    expect(await bindings.copenSize(name)).toBe(10_001);
  });

  test("is bound on disk before its size is told, though binding it failed at first", async () => {
    const { bindings, path, reload } = await fresh();
    const name = { ...NAME, cookieKey: digest(1) };
    await mkdir(`${path}.new`, { recursive: true });
    await expect(bindings.bind(name, content(1))).rejects.toThrow();
    await rm(`${path}.new`, { recursive: true });
    await bindings.copenSize(name);
    expect((await reload()).get(name)?.stream.digest).toBe(digest(1));
  });
});

describe("binding", () => {
  test("the size of a key that was never bound is a bug", async () => {
    const { bindings } = await fresh();
    await expect(bindings.copenSize(NAME)).rejects.toThrow("not bound");
  });

  test("another content forgets what was learnt of the old one", async () => {
    const { bindings } = await fresh();
    await bindings.bind(NAME, { ...content(1), inspected: { compressed: true } });
    expect((await bindings.bind(NAME, content(1))).inspected).toEqual({ compressed: true });
    expect((await bindings.bind(NAME, content(2))).inspected).toBeUndefined();
  });

  test("the same bootstrap with other devices is another image, to be looked at again", async () => {
    const { bindings } = await fresh();
    const before = { ...content(1, 4096, [7]), inspected: { compressed: false } };
    const after = { ...content(1, 4096, [8]), manifestDigest: digest(55) };
    await bindings.bind(NAME, before);
    expect(isSameImage(before, after)).toBe(false);
    expect((await bindings.bind(NAME, after)).inspected).toBeUndefined();
  });

  test("everything survives a reload", async () => {
    const { bindings, reload } = await fresh();
    await bindings.bind(NAME, { ...content(1, 5000, [7, 8]), inspected: { compressed: true } });
    await bindings.copenSize(NAME);
    expect((await reload()).get(NAME)).toEqual(bindings.get(NAME));
    expect([...(await reload()).all()]).toHaveLength(1);
  });
});

describe("finding a stream by its content", () => {
  test("knows bootstraps and devices, by digest and by the 57 digits of a tag", async () => {
    const { bindings } = await fresh();
    const tagged = asDigest("ab".repeat(32));
    const device = { digest: tagged, size: 9, origin };
    await bindings.bind(NAME, { ...content(1), devices: [device] });
    expect(bindings.findStreams(digest(1))).toEqual([content(1).stream]);
    expect(bindings.findStreams(tagged)).toEqual([device]);
    expect(bindings.findStreams(tagged.slice(0, 64))).toEqual([device]);
    expect(bindings.findStreams(digest(99))).toEqual([]);
  });

  test("gives nothing for a prefix of two digests", async () => {
    const { bindings } = await fresh();
    await bindings.bind(NAME, content(1, 4096, [2]));
    expect(bindings.findStreams(digest(1).slice(0, 64))).toEqual([]);
  });

  test("gives every size that images claim, the latest first", async () => {
    const { bindings } = await fresh();
    await bindings.bind(NAME, content(1, 5000));
    await bindings.bind({ ...NAME, cookieKey: "other" }, content(1, 6000));
    expect(bindings.findStreams(digest(1)).map(({ size }) => size)).toEqual([6000, 5000]);
  });
});

test("sizes that start elsewhere meet none of those a lost history may have given", async () => {
  const { bindings, reload } = await fresh();
  bindings.startSizesAt(1000);
  await bindings.bind(NAME, content(1));
  expect(await bindings.copenSize(NAME)).toBe(12_288 + 1000 * 4096);
  const next = await reload();
  const other = { ...NAME, cookieKey: "b" };
  await next.bind(other, content(2));
  expect(await next.copenSize(other)).toBe(12_288 + 1000 * 4096);
});

describe("names that are unbound", () => {
  const there = { ...origin, repository: "other" };
  const shared = (from: typeof origin | typeof there): Content => ({
    ...content(1),
    devices: [{ digest: digest(7), size: 4096, origin: from, format: "rafs" }],
  });
  const other = { ...NAME, cookieKey: "b" };

  test("say no more where a blob comes from, now and after a reload", async () => {
    const { bindings, reload } = await fresh();
    await bindings.bind(other, shared(there));
    await bindings.bind(NAME, shared(origin));
    await bindings.unbind(other);
    for (const state of [bindings, await reload()]) {
      expect(state.get(other)?.unbound).toBe(true);
      expect(state.findStreams(digest(7))[0]?.origin.repository).toBe("app");
    }
    await bindings.bind(other, shared(there));
    expect(bindings.get(other)?.unbound).toBeUndefined();
    expect(bindings.findStreams(digest(7))[0]?.origin.repository).toBe("other");
  });

  test("keep the sizes they had, until they are forgotten with their file", async () => {
    const { bindings } = await fresh();
    await bindings.bind(NAME, content(1));
    const first = await bindings.copenSize(NAME);
    await bindings.unbind(NAME);
    await bindings.bind(NAME, content(2));
    expect(await bindings.copenSize(NAME)).not.toBe(first);
    await bindings.forget(NAME);
    expect(bindings.get(NAME)).toBeUndefined();
  });

  test("a digest that is a raw layer in one image cannot be a Nydus blob in another", async () => {
    const { bindings } = await fresh();
    await bindings.bind(NAME, shared(origin));
    const raw = { ...content(2), devices: [{ digest: digest(7), size: 4096, origin }] };
    expect(await rejectionOf(bindings.bind(other, raw))).toBe("image_invalid");
    expect(bindings.get(other)).toBeUndefined();
  });
});

describe("loading", () => {
  test("nothing is missing, not damaged", async () => {
    const { bindings } = await fresh();
    expect(await bindings.load()).toBe("missing");
  });

  test.each([
    ["no JSON", "{"],
    ["empty", ""],
    ["another version", '{"version":2,"volumes":[]}'],
    ["an unknown field", '{"version":1,"volumes":[],"more":1}'],
    ["a size that is none", '{"version":1,"volumes":[["v",[["k",{"copenSize":-1}]]]]}'],
  ])("a file with %s is set aside and reported", async (_what, text) => {
    const { bindings, path } = await fresh();
    await mkdir(join(path, ".."), { recursive: true });
    await writeFile(path, text);
    expect(codeOf(await bindings.load())).toBe("state_damaged");
    expect(await readFile(`${path}.damaged`, "utf8")).toBe(text);
    expect(await new Bindings(path).load()).toBe("missing");
  });
});
