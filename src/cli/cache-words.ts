// SPDX-License-Identifier: Apache-2.0
// The words of `erofsd cache` and `erofsd rmi`.

import type { Argv } from "yargs";
import { DaemonError } from "../errors.ts";
import { bytesOf } from "./prefetch-words.ts";
import { IMAGE_NAME, imageName, jsonOption, socketOptions, socketPath } from "./socket-options.ts";

const DOWN_TO = "what may stay, such as 20GiB; what was used last does";

/** Adds them to `parser`. */
export function addCacheCommands(parser: Argv): Argv {
  return parser
    .command(
      "cache",
      "what is cached",
      (y) =>
        y
          .demandCommand(1, "which command of cache?")
          .command(
            "usage",
            "how much it takes",
            (z) => jsonOption(socketOptions(z)),
            async (given) => {
              const { cacheUsage } = await import("./cache-command.ts");
              await cacheUsage({ json: given.json, socketPath: await socketPath(given) });
            },
          )
          .command(
            "prune",
            "give up what is cached and not in use",
            pruneOptions,
            async (given) => {
              const { cachePrune, secondsOf } = await import("./cache-command.ts");
              const { image, olderThan, downTo, all, json } = given;
              const wish = {
                ...(image === undefined ? {} : { image }),
                ...(olderThan === undefined ? {} : { olderThanSeconds: secondsOf(olderThan) }),
                ...(downTo === undefined ? {} : { leaveBytes: bytesOf("--down-to", downTo) }),
                ...(all ? { all: true as const } : {}),
              };
              if (Object.keys(wish).length === 0) {
                const detail = "say what: --image, --older-than, --down-to or --all";
                throw new DaemonError({ code: "usage_invalid", detail });
              }
              await cachePrune({ wish, json, socketPath: await socketPath(given) });
            },
          ),
      () => undefined,
    )
    .command(
      "rmi <name>",
      "forget an image that is not mounted, and what is cached of it alone",
      (y) => imageName(jsonOption(socketOptions(y))),
      async (given) => {
        const { removeImage } = await import("./cache-command.ts");
        const { name, json } = given;
        await removeImage({ name, json, socketPath: await socketPath(given) });
      },
    );
}

function pruneOptions(y: Argv) {
  return jsonOption(socketOptions(y))
    .option("image", {
      type: "string",
      requiresArg: true,
      describe: `of this image: ${IMAGE_NAME}`,
    })
    .option("older-than", {
      type: "string",
      requiresArg: true,
      describe: "not used for so long, such as 30d",
    })
    .option("down-to", { type: "string", requiresArg: true, describe: DOWN_TO })
    .option("all", { type: "boolean", default: false, describe: "all that is not in use" });
}
