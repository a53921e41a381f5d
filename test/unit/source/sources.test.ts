// SPDX-License-Identifier: Apache-2.0

import { expect, test, vi } from "vitest";
import { systemClock } from "../../../src/platform/clock.ts";
import { createLayoutSource } from "../../../src/source/layout.ts";
import { createSources } from "../../../src/source/sources.ts";

test("one that cannot be made keeps no other from being closed", async () => {
  const layout = createLayoutSource({ clock: systemClock });
  const close = vi.spyOn(layout, "close");
  const sources = createSources({
    registry: () => Promise.reject(new Error("its program is gone")),
    layout: () => Promise.resolve(layout),
    directory: () => Promise.reject(new Error("its program is gone")),
  });
  await expect(sources.warmUp()).rejects.toThrow("its program is gone");
  await sources.close();
  expect(close).toHaveBeenCalledTimes(1);
});
