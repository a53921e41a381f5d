// SPDX-License-Identifier: Apache-2.0
// Making references mountable, and doing so while the same names are being opened.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import type { Binding, CookieName } from "../../../src/state/bindings.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { patternBytes } from "../../support/flow-rig.ts";
import { AWAY, NamesRig, TAG, VOLUME } from "../../support/names-rig.ts";

function prepare(
  rig: NamesRig,
  fsid?: string,
  reference = TAG,
): Promise<CookieName & { readonly binding: Binding }> {
  return rig.names.prepare(reference, { fsid, signal: new AbortController().signal });
}

describe("a reference that is prepared", () => {
  test("is kept nothing of before there is a place for it, nor taken in", async () => {
    const rig = await NamesRig.make();
    const blobs = { kind: "directory", host: "directory", repository: "/none" } as const;
    rig.publish(TAG, { kind: "bootstrap", reference: TAG, path: "/none", blobs });
    rig.publish("registry.example/raw:v1", rig.image());
    for (const reference of [TAG, "registry.example/raw:v1"]) {
      const fault = { code: "request_invalid", field: "mountPoint", detail: "gone" } as const;
      const ready = Promise.reject(new DaemonError(fault));
      const { signal } = new AbortController();
      const work = rig.names.prepare(reference, { fsid: undefined, signal, ready });
      // Taking a bootstrap in fails otherwise here.
      expect(await rig.settled(rejectionOf(work))).toBe("request_invalid");
    }
    expect([[...rig.bindings.all()], rig.flow.source.fetches]).toEqual([[], []]);
  });

  test("gets its layer's digest for a key, and its head is fetched once for both", async () => {
    const rig = await NamesRig.make();
    const image = rig.image();
    rig.publish(TAG, image);
    const { cookieKey } = await rig.settled(prepare(rig));
    expect(cookieKey).toBe(image.stream.digest);
    const open = await rig.opened(cookieKey);
    expect([open.answer, open.copenSize]).toEqual(["accepted", image.stream.size]);
    await rig.until(() => rig.flow.slabs.lentCount === 0);
    expect([rig.flow.source.fetches.length, rig.flow.clock.pendingCount]).toEqual([1, 0]);
    expect(open.object?.hasWritten({ offset: 0, length: 4 * 4096 })).toBe(true);
  });

  test("gets its manifest's digest when it has devices, which come in the table's order", async () => {
    const rig = await NamesRig.make();
    const devices = [patternBytes(4096, 8), patternBytes(4096, 9)];
    const digests = devices.map((bytes) => rig.flow.blob(bytes).digest);
    const tags = digests.toReversed().map((digest) => digest.slice(7));
    const image = rig.image({ devices, tags });
    rig.publish(TAG, image);
    const { cookieKey, binding } = await rig.settled(prepare(rig));
    expect(cookieKey).toBe(image.manifestDigest);
    expect(binding.devices.map(({ digest }) => digest)).toEqual(digests.toReversed());
  });

  test("has its cache files put in place, by the names and sizes that its mount will have", async () => {
    const rig = await NamesRig.make();
    const device = patternBytes(6000, 8);
    const { digest, size } = rig.flow.blob(device);
    const image = rig.image({ devices: [device], tags: [digest.slice(7)] });
    rig.publish(TAG, image);
    await rig.settled(prepare(rig, "mine"));
    const { binding } = await rig.settled(prepare(rig));
    const seeded = (cookieKey: string, sizeBytes: number) => ({
      volumeKey: VOLUME,
      cookieKey,
      sizeBytes,
    });
    expect(
      rig.seeded.map(({ volumeKey, cookieKey, sizeBytes }) => ({
        volumeKey,
        cookieKey,
        sizeBytes,
      })),
    ).toEqual([
      seeded("mine", binding.stream.size),
      seeded(digest, size),
      seeded(image.manifestDigest, binding.stream.size),
      seeded(digest, size),
    ]);
    rig.seeded.length = 0;
    // A bare mount: its primary is being opened already, its device is not.
    const open = await rig.opened("mine");
    expect([open.copenSize, rig.seeded]).toEqual([
      binding.stream.size,
      [seeded(digest.slice(7), size)],
    ]);
  });

  test("and never mounted gives its buffer back after a while", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    await rig.settled(prepare(rig));
    expect(rig.flow.slabs.lentCount).toBe(1);
    await rig.flow.clock.advance(10_000);
    await rig.until(() => rig.flow.slabs.lentCount === 0);
    expect(rig.flow.clock.pendingCount).toBe(0);
  });

  test("again is not looked at again", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    const first = await rig.settled(prepare(rig));
    expect(await rig.settled(prepare(rig))).toEqual(first);
    expect(rig.flow.source.fetches).toHaveLength(1);
  });

  test("while the registry is away is what it was last, not what it was first", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    await rig.settled(prepare(rig));
    const moved = rig.image({ salt: 2 });
    rig.publish(TAG, moved);
    await rig.settled(prepare(rig));
    rig.publish(TAG, AWAY);
    expect((await rig.settled(prepare(rig))).cookieKey).toBe(moved.stream.digest);
  });

  test("that is unknown and away, or not served, is refused and holds nothing", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, AWAY);
    expect(await rig.settled(rejectionOf(prepare(rig)))).toBe("registry_unreachable");
    rig.publish(TAG, { ...rig.image(), stream: rig.flow.blob(patternBytes(9000)) });
    expect(await rig.settled(rejectionOf(prepare(rig)))).toBe("image_invalid");
    await rig.until(() => rig.flow.slabs.lentCount === 0);
    expect(rig.flow.clock.pendingCount).toBe(0);
  });
});

describe("a key given by the caller", () => {
  test("names the reference from then on", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    await rig.settled(prepare(rig, "my-container"));
    expect((await rig.opened("my-container")).answer).toBe("accepted");
  });

  test("that is a digest must be the content's own", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    expect(await rig.settled(rejectionOf(prepare(rig, `sha256:${"b".repeat(64)}`)))).toBe(
      "key_refused",
    );
  });

  test("cannot be given another image while it is mounted", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    await rig.settled(prepare(rig, "mine"));
    const open = await rig.opened("mine");
    rig.publish(TAG, rig.image({ salt: 2 }));
    expect(await rig.settled(rejectionOf(prepare(rig, "mine")))).toBe("key_refused");
    if (open.object !== undefined) rig.flow.close(open.object);
    await rig.settled(prepare(rig, "mine"));
    expect((await rig.opened("mine")).copenSize).toBe(5 * 4096);
  });

  test("given an image of the same bootstrap with other devices names those", async () => {
    const rig = await NamesRig.make();
    const [one, two] = [patternBytes(4096, 8), patternBytes(4096, 9)];
    rig.publish("a", rig.image({ devices: [one], tags: [""] }));
    rig.publish("b", rig.image({ devices: [two], tags: [""] }));
    await rig.settled(prepare(rig, "mine", "a"));
    const { binding } = await rig.settled(prepare(rig, "mine", "b"));
    expect(binding.devices.map(({ digest }) => digest)).toEqual([rig.flow.blob(two).digest]);
  });
});

describe("a name that is prepared and opened at the same time", () => {
  test("is never told the size of one content and served the bytes of another", async () => {
    const rig = await NamesRig.make();
    const [old, moved] = [rig.image(), rig.image({ salt: 2 })];
    rig.publish("mine", old);
    rig.publish(TAG, moved);
    const open = rig.open("mine");
    const preparing = rejectionOf(prepare(rig, "mine"));
    await rig.until(() => open.answered);
    const outcome = await rig.settled(preparing);
    const served = rig.flow.engine.flowOf(
      rig.flow.stream(outcome === "resolved" ? moved.stream : old.stream),
    );
    const sizes = new Map([
      [old.stream.digest, 4 * 4096],
      [moved.stream.digest, 5 * 4096],
    ]);
    expect(served.objects.size).toBe(1);
    // Whichever came first, the size that was told belongs to the stream that is served.
    const bound = rig.bindings.get({ volumeKey: VOLUME, cookieKey: "mine" });
    expect(bound?.stream.digest).toBe(served.stream.digest);
    const past = new Map(bound?.past.map(({ digest, copenSize }) => [digest, copenSize]));
    expect(open.copenSize).toBe(past.get(served.stream.digest));
    expect(sizes.has(served.stream.digest)).toBe(true);
  });

  test("waits for the other, and stopping leaves nobody waiting", async () => {
    const rig = await NamesRig.make();
    rig.publish("mine", "stall");
    rig.publish(TAG, rig.image());
    const open = rig.open("mine");
    await rig.until(() => rig.resolved.length === 1);
    const preparing = prepare(rig, "mine");
    await rig.until(() => rig.resolved.length === 2);
    rig.names.stop(new DaemonError({ code: "stopping" }));
    await rig.until(() => open.answered);
    await rig.settled(preparing);
    expect(open.answer).toBe("refused");
  });
});
