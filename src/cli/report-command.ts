// SPDX-License-Identifier: Apache-2.0
// `erofsd report`: how an image was read since it was mounted, as one page of HTML.

import { ask } from "../control/client.ts";
import { imageHistory } from "../control/history-schema.ts";
import { asDaemonError } from "../errors.ts";
import { TouchedExtents } from "../image/trace-files.ts";
import type { TraceFile } from "../image/trace-format.ts";
import type { Output } from "./output.ts";
import { findImage } from "./mounted-image.ts";
import { makeReport } from "./report/model.ts";
import { reportPage } from "./report/page.ts";
import { listFiles, writeWhole } from "./trace-command.ts";

/** Faults: image_unknown, usage_invalid, daemon_unreachable, syscall_failed. */
export async function reportCommand(
  given: {
    readonly mount: string;
    readonly output: string | undefined;
    readonly socketPath: string;
  },
  output: Output = process.stdout,
): Promise<void> {
  const { socketPath } = given;
  const image = await findImage(socketPath, given.mount);
  const path = `/v1/images/${encodeURIComponent(image.fsid)}/history`;
  const history = await ask(socketPath, { method: "GET", path, answer: imageHistory });
  const touched = new TouchedExtents(
    history.streams.flatMap(({ waits }, stream) =>
      waits.map(([ms, , offset, length]) => ({ ms, stream, offset, length })),
    ),
  );
  const page = reportPage(makeReport(history, await touchedFiles(socketPath, image.fsid, touched)));
  if (given.output === undefined) output.write(page);
  else await writeWhole(given.output, page);
}

/** Without them, when the image does not tell: the rest is worth a page too. */
async function touchedFiles(
  socketPath: string,
  fsid: string,
  touched: TouchedExtents,
): Promise<TraceFile[]> {
  const files: TraceFile[] = [];
  try {
    for await (const { file, parts } of listFiles(socketPath, fsid)) {
      const own = parts.filter(([stream, offset, length]) =>
        touched.touches(stream, { offset, length }),
      );
      if (own.length > 0) files.push({ file, parts: own.map((part) => [...part]) });
    }
    return files;
  } catch (error) {
    process.stderr.write(`erofsd: without names of files: ${asDaemonError(error).message}\n`);
    return [];
  }
}
