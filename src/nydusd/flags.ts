// SPDX-License-Identifier: Apache-2.0
// The flags of `nydusd` as of 2.4: which take a value, which mean something to this program,
// and which are taken only because somebody's command line has them.

export interface Flag {
  readonly name: string;
  readonly short?: string;
  readonly takesValue: boolean;
  /** Meant for a mode that is not ours: accepted, and said so once in the log. */
  readonly isIgnored: boolean;
  readonly help: string;
}

export const FLAGS: readonly Flag[] = [
  used("fscache", "F", "DIR", "directory of the cache (ext4 or xfs), given to the kernel"),
  used("fscache-tag", undefined, "TAG", "tag of the cache"),
  used("fscache-threads", undefined, "N", "threads for disk writes (4)"),
  used("apisock", "A", "SOCK", "unix socket of the API"),
  used("id", undefined, "ID", "name of this daemon, with --supervisor"),
  used("supervisor", undefined, "SOCK", "socket of the supervisor, with --id"),
  {
    ...used("upgrade", undefined, "", "wait to take over from a running daemon"),
    takesValue: false,
  },
  used("config", "C", "FILE", "configuration of erofsd (.toml)"),
  used("log-level", "l", "LEVEL", "trace, debug, info, warn or error (info)"),
  used("log-file", "L", "FILE", "log to this file instead of stderr"),
  used("log-rotation-size", undefined, "MB", "begin a new log file at this size; 0: never (0)"),
  ignored("rlimit-nofile"),
  ignored("bootstrap", "B"),
  ignored("localfs-dir", "D"),
  ignored("shared-dir", "s"),
  ignored("prefetch-files"),
  ignored("virtual-mountpoint", "m"),
  ignored("mountpoint", "M"),
  ignored("failover-policy"),
  ignored("fuse-threads"),
  ignored("thread-num"),
  ignored("dedup-db"),
  ignored("sock"),
  ignored("backend-type"),
  ignored("backend-config"),
  { ...ignored("writable"), takesValue: false },
  { ...ignored("hybrid-mode"), takesValue: false },
];

export function flagOf(word: string): Flag | undefined {
  return word.startsWith("--")
    ? FLAGS.find(({ name }) => name === word.slice(2))
    : FLAGS.find(({ short }) => short !== undefined && short === word.slice(1));
}

export function usage(): string {
  const lines = FLAGS.filter(({ isIgnored }) => !isIgnored).map(({ name, short, help }) => {
    const [value = "", text = ""] = help.split("\t");
    const words = `${short === undefined ? "    " : `-${short}, `}--${name} ${value}`;
    return `  ${words.padEnd(30)} ${text}`;
  });
  return [
    "Serves Nydus (RAFS v6) images over fscache, in place of `nydusd singleton --fscache`.",
    "",
    "Usage: erofsd-nydusd singleton --fscache DIR --apisock SOCK [OPTIONS]",
    "",
    ...lines,
    "  -h, --help                     this text",
    "  -V, --version                  version and build",
    "",
  ].join("\n");
}

function used(name: string, short: string | undefined, value: string, help: string): Flag {
  const base = { name, takesValue: true, isIgnored: false, help: `${value}\t${help}` };
  return short === undefined ? base : { ...base, short };
}

function ignored(name: string, short?: string): Flag {
  const base = { name, takesValue: true, isIgnored: true, help: "" };
  return short === undefined ? base : { ...base, short };
}
