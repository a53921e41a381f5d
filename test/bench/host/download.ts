// SPDX-License-Identifier: Apache-2.0
// What plain tools make of a link: curl, alone or several at once, and curl | dd into a file.

import { execFile } from "node:child_process";
import { promisify } from "node:util";

const exec = promisify(execFile);

export interface Download {
  readonly registry: string;
  /** `<repository>:<tag>`. */
  readonly name: string;
  readonly blob: string;
  /** How many of the blob's first bytes. */
  readonly bytes: number;
}

/** Milliseconds until the last byte; `streams` connections share the bytes. */
export async function curl(download: Download, streams = 1): Promise<number> {
  const share = Math.ceil(download.bytes / streams);
  const times = await Promise.all(
    Array.from({ length: streams }, async (_, index) => {
      const last = Math.min(download.bytes, (index + 1) * share) - 1;
      const args = [
        "-sf",
        "-o",
        "/dev/null",
        "-w",
        "%{time_total}",
        "-r",
        `${index * share}-${last}`,
      ];
      const { stdout } = await exec("curl", [...args, urlOf(download)]);
      return Number(stdout) * 1000;
    }),
  );
  return Math.max(...times);
}

/** Milliseconds for the first `bytes` bytes over a connection that is there already. */
export async function curlAgain(download: Download, bytes: number): Promise<number> {
  const [url, range] = [urlOf(download), `0-${bytes - 1}`];
  const twice = [url, "-o", "/dev/null", url, "-o", "/dev/null"];
  const { stdout } = await exec("curl", ["-sf", "-w", "%{time_total}\n", "-r", range, ...twice]);
  return Number(stdout.split("\n")[1]) * 1000;
}

/** Milliseconds of `curl | dd of=PATH`. */
export async function curlIntoFile(download: Download, path: string): Promise<number> {
  const range = `0-${download.bytes - 1}`;
  const script = 'curl -sf -r "$1" "$2" | dd of="$3" bs=1M iflag=fullblock status=none';
  const startMs = performance.now();
  await exec("bash", ["-o", "pipefail", "-c", script, "curl", range, urlOf(download), path]);
  return performance.now() - startMs;
}

function urlOf({ registry, name, blob }: Download): string {
  return `http://${registry}/v2/${name.split(":")[0]}/blobs/${blob}`;
}
