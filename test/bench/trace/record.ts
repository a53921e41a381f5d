// SPDX-License-Identifier: Apache-2.0
// Makes the trace that the host's `start` workload replays: a Python starts in a guest, from a raw
// EROFS image of a root, with the smallest window, so that nearly all it reads is asked for.

import { copyFile, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { EROFS_LAYER_V1 } from "../../../src/image/oci/media-types.ts";
import { findPackageRoot } from "../../../src/platform/package-root.ts";
import { mkfsErofs } from "../../support/mkfs.ts";
import { buildImage, writeLayout } from "../../support/oci-image.ts";
import { START_TRACE } from "../host/start-trace.ts";
import { capture } from "../programs.ts";
import { makeBenchRoot } from "../bench-root.ts";
import type { Report } from "../report.ts";

const ROOT = fileURLToPath(findPackageRoot());
const GUEST = fileURLToPath(new URL("guest.js", import.meta.url));

export async function recordTrace(report: Report, home: string, kernel: string): Promise<void> {
  report.heading("recording the start of a program");
  await mkdir(home, { recursive: true });
  // Not in the system's temp dir, which the guest does not see.
  const scratch = await mkdtemp(join(home, "scratch-"));
  try {
    const [root, image] = [join(scratch, "root"), join(scratch, "image.erofs")];
    const [layout, out] = [join(scratch, "layout"), join(scratch, "out")];
    await mkdir(out);
    await makeBenchRoot(root);
    await mkfsErofs(image, root);
    const layer = { bytes: new Uint8Array(await readFile(image)), mediaType: EROFS_LAYER_V1 };
    const { manifest, descriptor, config, layers } = buildImage([layer]);
    const annotations = { "org.opencontainers.image.ref.name": "v1" };
    await writeLayout(layout, {
      blobs: [manifest, config, ...layers],
      manifests: [{ ...descriptor, annotations }],
    });
    const guest = ["--kernel", kernel, "--out", out, "--", process.execPath, GUEST, layout];
    await capture([join(ROOT, "scripts/guest/run"), ...guest], (line) => {
      console.log(`  ${line}`);
    });
    await copyFile(join(out, "trace"), START_TRACE);
    console.log(`written: ${START_TRACE}`);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}
