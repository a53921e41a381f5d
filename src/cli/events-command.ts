// SPDX-License-Identifier: Apache-2.0
// `erofsd events`: what happens in the daemon, a line each, until Ctrl-C or the daemon's end.

import { askStream, unreachableAt } from "../control/client.ts";
import { type EventData, eventData } from "../control/image-schema.ts";
import { eventDataOf } from "./event-data.ts";
import { type Output, type Style, printable, styleOf } from "./output.ts";

/** Returns on SIGINT, SIGTERM or the daemon's stop. Fault: daemon_unreachable when it breaks off. */
export async function eventsCommand(
  given: { readonly socketPath: string; readonly json: boolean },
  output: Output = process.stdout,
): Promise<void> {
  const interrupt = new AbortController();
  const stop = (): void => {
    interrupt.abort();
  };
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  const style = styleOf(output);
  let isStopped = false;
  try {
    for await (const text of eventDataOf(
      askStream(given.socketPath, "/v1/events", interrupt.signal),
    )) {
      const event = eventData.safeParse(JSON.parse(text)).data;
      // A kind that this version does not know is printed as it came.
      output.write(given.json || event === undefined ? `${text}\n` : lineOf(event, style));
      if (event?.type === "stopping") isStopped = true;
    }
  } finally {
    process.removeListener("SIGINT", stop);
    process.removeListener("SIGTERM", stop);
  }
  if (isStopped || interrupt.signal.aborted) return;
  throw unreachableAt(given.socketPath, "the events broke off");
}

function lineOf(event: EventData, style: Style): string {
  const text = printable(factsOf(event));
  const isBad = event.type.endsWith("-failed");
  return (
    `${event.at}  ${event.type.padEnd(13)}  ${isBad ? style.bad(text) : text}`.trimEnd() + "\n"
  );
}

function factsOf(event: EventData): string {
  switch (event.type) {
    case "image-bound":
      return `${event.reference} is ${event.manifestDigest}, fsid ${event.fsid}`;
    case "mounted":
    case "unmounted":
      return `${event.mountPoint}: ${event.reference ?? event.fsid ?? "?"}, by ${event.door}`;
    case "object-opened":
      return `${event.fsid}, ${event.sizeBytes} bytes`;
    case "object-closed":
      return event.fsid;
    case "open-failed":
      return `${event.fsid}: ${event.failure.message}`;
    case "fill-failed":
      return `${event.fsids.join(", ")}: ${event.failure.message}`;
    case "dropped":
      return `${event.count} events were not taken in time`;
    case "stopping":
      return "";
    default:
      return unreachable(event);
  }
}

function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
