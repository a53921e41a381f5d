// SPDX-License-Identifier: Apache-2.0
// OPENs from the kernel's side: what a key stands for, and that each is answered once, in time.

import { describe, expect, test } from "vitest";
import { DaemonError } from "../../../src/errors.ts";
import { codeOf } from "../../support/fault-code.ts";
import { patternBytes } from "../../support/flow-rig.ts";
import { AWAY, NamesRig, OPEN_TIMEOUT_MS, TAG, VOLUME, resized } from "../../support/names-rig.ts";
import { turns } from "../../support/turns.ts";

describe("a name", () => {
  test("is resolved, looked at once and served", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    const open = await rig.opened(TAG);
    expect([open.answer, open.copenSize]).toEqual(["accepted", 4 * 4096]);
    expect(rig.bindings.get({ volumeKey: VOLUME, cookieKey: TAG })?.inspected).toEqual({
      compressed: false,
    });
    await rig.until(() => rig.flow.slabs.lentCount === 0);
    expect(rig.flow.source.fetches).toHaveLength(1);
    expect([rig.flow.clock.pendingCount, rig.opener.waitingCount]).toEqual([0, 0]);
  });

  test("that moved between two OPENs gets the new content, with a size the old never had", async () => {
    const rig = await NamesRig.make();
    const [old, moved] = [rig.image(), rig.image({ salt: 2 })];
    rig.publish(TAG, old);
    const first = await rig.opened(TAG);
    if (first.object !== undefined) rig.flow.close(first.object);
    rig.publish(TAG, moved);
    const second = await rig.opened(TAG);
    expect([first.copenSize, second.copenSize]).toEqual([4 * 4096, 5 * 4096]);
    if (second.object !== undefined) rig.flow.close(second.object);
    rig.publish(TAG, old);
    expect((await rig.opened(TAG)).copenSize).toBe(4 * 4096);
  });

  test("that is still open keeps what it stands for, whatever the registry says", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    await rig.opened(TAG);
    rig.publish(TAG, rig.image({ salt: 2 }));
    const again = await rig.opened(TAG);
    expect([again.copenSize, rig.resolved.length]).toEqual([4 * 4096, 1]);
  });

  test("bound before is served while the registry is away, also after a restart", async () => {
    const before = await NamesRig.make();
    before.publish(TAG, before.image());
    await before.opened(TAG);
    const after = await NamesRig.make({ path: before.path });
    after.publish(TAG, AWAY);
    const open = await after.opened(TAG);
    expect([open.answer, open.copenSize]).toEqual(["accepted", 4 * 4096]);
    expect(after.resolved[0]?.options.attemptsMax).toBe(1);
  });

  test("never bound is refused while the registry is away", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, AWAY);
    expect(codeOf((await rig.opened(TAG)).error)).toBe("registry_unreachable");
  });

  test("that the registry has no more is refused, though it was bound", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    const open = await rig.opened(TAG);
    if (open.object !== undefined) rig.flow.close(open.object);
    rig.registry.delete(TAG);
    const again = await rig.opened(TAG);
    expect([again.answer, codeOf(again.error)]).toEqual(["refused", "manifest_not_found"]);
    expect(rig.failures.map(({ key, error }) => [key, codeOf(error)])).toEqual([
      [TAG, "manifest_not_found"],
    ]);
  });

  test("with a digest in it is resolved once and for ever", async () => {
    const rig = await NamesRig.make();
    const name = `registry.example/app@sha256:${"0".repeat(64)}`;
    rig.publish(name, rig.image());
    const open = await rig.opened(name);
    if (open.object !== undefined) rig.flow.close(open.object);
    await rig.opened(name);
    expect(rig.resolved).toHaveLength(1);
  });

  test("opened twice at once is resolved once, and both are answered", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    const opens = [rig.open(TAG), rig.open(TAG)];
    await rig.until(() => opens.every(({ answered }) => answered));
    expect(opens.map(({ answer }) => answer)).toEqual(["accepted", "accepted"]);
    expect(rig.resolved).toHaveLength(1);
  });
});

describe("time", () => {
  test("an OPEN is refused at its deadline, once, and the next one finds the late result", async () => {
    const rig = await NamesRig.make();
    const image = rig.image();
    rig.publish(TAG, "stall");
    const open = rig.open(TAG);
    await rig.flow.clock.advance(OPEN_TIMEOUT_MS);
    expect([open.answer, codeOf(open.error)]).toEqual(["refused", "deadline_exceeded"]);
    await rig.flow.clock.advance(1);
    rig.publish(TAG, image);
    rig.release();
    await rig.until(() => rig.opener.waitingCount === 0);
    expect(open.answer).toBe("refused");
    expect((await rig.opened(TAG)).answer).toBe("accepted");
    expect(rig.resolved).toHaveLength(1);
  });

  test("a resolution that comes after its OPEN's deadline serves whoever joined it", async () => {
    const rig = await NamesRig.make();
    const image = rig.image();
    rig.publish(TAG, "stall");
    const first = rig.open(TAG);
    await rig.flow.clock.advance(OPEN_TIMEOUT_MS - 1000);
    const second = rig.open(TAG);
    await rig.flow.clock.advance(1000);
    rig.publish(TAG, image);
    rig.release();
    await rig.until(() => second.answered);
    expect([first.answer, second.answer]).toEqual(["refused", "accepted"]);
    await rig.until(() => rig.flow.clock.pendingCount === 0);
  });

  test("a name that is bound does not wait long for a registry that is away", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    const open = await rig.opened(TAG);
    if (open.object !== undefined) rig.flow.close(open.object);
    const startMs = rig.flow.clock.nowMs();
    await rig.opened(TAG);
    const deadlineMs = rig.resolved[1]?.options.deadlineMs ?? 0;
    expect(deadlineMs - startMs).toBeLessThanOrEqual(OPEN_TIMEOUT_MS / 2);
  });
});

describe("what is refused", () => {
  test("another volume, without asking anybody", async () => {
    const rig = await NamesRig.make();
    rig.publish(TAG, rig.image());
    const open = await rig.opened(TAG, "erofs,other");
    expect(codeOf(open.error)).toBe("key_refused");
    expect(rig.resolved).toEqual([]);
  });

  test("a raw layer when integrity is required", async () => {
    const rig = await NamesRig.make({ integrity: "require" });
    rig.publish(TAG, rig.image());
    expect(codeOf((await rig.opened(TAG)).error)).toBe("image_unsupported");
  });

  test("a compressed image on a kernel that cannot read it", async () => {
    const rig = await NamesRig.make({ servesCompressed: false });
    rig.publish(TAG, rig.image({ compressed: true }));
    expect(codeOf((await rig.opened(TAG)).error)).toBe("image_unsupported");
    await rig.until(() => rig.flow.slabs.lentCount === 0);
  });

  test("a blob that is no EROFS image", async () => {
    const rig = await NamesRig.make();
    const stream = rig.flow.blob(patternBytes(20_000));
    rig.publish(TAG, { ...rig.image(), stream });
    expect(codeOf((await rig.opened(TAG)).error)).toBe("image_invalid");
    await rig.until(() => rig.flow.slabs.lentCount === 0);
    expect(rig.flow.clock.pendingCount).toBe(0);
  });

  test("a digest that no known image has", async () => {
    const rig = await NamesRig.make();
    expect(codeOf((await rig.opened(`sha256:${"a".repeat(64)}`)).error)).toBe("key_unknown");
    expect(codeOf((await rig.opened("A".repeat(64))).error)).toBe("key_unknown");
  });
});

describe("a device", () => {
  test("is opened by its digest, its hex digits or what a tag holds of it", async () => {
    const rig = await NamesRig.make();
    const device = patternBytes(5000, 9);
    const { digest } = rig.flow.blob(device);
    rig.publish(TAG, rig.image({ devices: [device], tags: [digest.slice(7)] }));
    await rig.opened(TAG);
    for (const key of [digest, digest.slice(7), digest.slice(0, 64)]) {
      const open = await rig.opened(key);
      expect([open.answer, open.copenSize], key).toEqual(["accepted", 5000]);
    }
  });

  test("whose size two images dispute gets the size that its source confirms", async () => {
    const rig = await NamesRig.make();
    const device = patternBytes(5000, 9);
    const blob = rig.flow.blob(device);
    const honest = rig.image({ devices: [device], tags: [""] });
    rig.publish("a", honest);
    rig.publish("b", { ...rig.image({ salt: 2, tags: [""] }), devices: [resized(blob, 6000)] });
    await rig.opened("a");
    await rig.opened("b");
    const open = rig.open(blob.digest);
    await turns();
    const asked = rig.flow.source.open.find(({ extent }) => extent.offset === 5999);
    asked?.fail(new DaemonError({ code: "blob_truncated", where: "w", digest: "d", detail: "d" }));
    await rig.until(() => open.answered);
    expect([open.answer, open.copenSize]).toEqual(["accepted", 5000]);
  });

  test("served with one size is refused, not opened and dead, with another", async () => {
    const rig = await NamesRig.make();
    const device = patternBytes(5000, 9);
    const blob = rig.flow.blob(device);
    rig.publish("a", rig.image({ devices: [device], tags: [""] }));
    await rig.opened("a");
    await rig.opened(blob.digest);
    rig.publish("b", { ...rig.image({ salt: 2, tags: [""] }), devices: [resized(blob, 6000)] });
    await rig.opened("b");
    const open = await rig.opened(blob.digest);
    expect([open.answer, codeOf(open.error)]).toEqual(["refused", "image_invalid"]);
    expect(rig.failures.map(({ key }) => key)).toEqual([blob.digest]);
  });
});

test("stopping ends what waits for the registry, and leaves no timer", async () => {
  const rig = await NamesRig.make();
  rig.publish(TAG, "stall");
  const open = rig.open(TAG);
  await turns();
  rig.names.stop(new DaemonError({ code: "stopping" }));
  await rig.until(() => open.answered);
  expect(codeOf(open.error)).toBe("stopping");
  await rig.until(() => rig.flow.clock.pendingCount === 0);
});
