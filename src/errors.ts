// SPDX-License-Identifier: Apache-2.0
// Every way the world can fail us, in one union, and one table that answers for each:
// may it be tried again, which errno the kernel gets, what the operator should do,
// and the exit status of a command that ends with it.
// Match on fault.code, never on message text.

import { describeFault } from "./fault-text.ts";

/** What a fault carries: enough to name what failed and where. Never a secret. */
export type Fault =
  | { code: "config_invalid"; where: string; detail: string }
  | { code: "usage_invalid"; detail: string; hint?: string }
  | { code: "reference_invalid"; reference: string; detail: string }
  | { code: "registry_unreachable"; host: string; detail: string }
  | { code: "registry_timeout"; host: string; detail: string }
  | { code: "registry_unauthorized"; host: string; repository: string; status: number }
  | { code: "registry_throttled"; host: string; retryAfterMs: number | undefined }
  | { code: "registry_failed"; host: string; status: number; detail: string }
  | { code: "registry_protocol"; host: string; detail: string }
  | { code: "manifest_not_found"; host: string; repository: string; wanted: string }
  | { code: "blob_not_found"; host: string; repository: string; digest: string }
  | { code: "blob_truncated"; where: string; digest: string; detail: string }
  | { code: "digest_mismatch"; where: string; expected: string; actual: string }
  | { code: "manifest_invalid"; where: string; detail: string }
  | { code: "image_unsupported"; where: string; detail: string }
  | { code: "image_invalid"; where: string; detail: string }
  | { code: "chunk_untrusted"; where: string; detail: string }
  | { code: "layout_failed"; path: string; detail: string }
  | { code: "directory_failed"; path: string; detail: string }
  | { code: "key_refused"; key: string; detail: string }
  | { code: "key_unknown"; key: string; detail: string }
  | { code: "device_missing"; path: string }
  | { code: "device_busy"; path: string }
  | { code: "device_denied"; path: string }
  | { code: "door_unsupported"; path: string; detail: string }
  | { code: "fanotify_unsupported"; detail: string }
  | { code: "fanotify_unsafe"; detail: string }
  | { code: "upgrade_failed"; detail: string }
  | { code: "keeper_running"; socket: string; pid: number }
  | { code: "full_unsupported"; detail: string }
  | { code: "no_door"; cachefiles: string; fanotify: string; full: string }
  | { code: "door_closed"; wanted: string; open: string }
  | { code: "cache_dir_unsuitable"; path: string; detail: string }
  | { code: "kernel_message_invalid"; detail: string }
  | { code: "syscall_failed"; syscall: string; errno: number; errnoName: string; detail: string }
  | { code: "cache_no_space"; key: string; detail: string }
  | { code: "cache_write_failed"; key: string; detail: string }
  | { code: "deadline_exceeded"; what: string; timeoutMs: number }
  | { code: "failed_recently"; what: string; detail: string }
  | { code: "cancelled"; what: string }
  | { code: "stopping" }
  | { code: "state_damaged"; path: string; detail: string }
  | { code: "daemon_unreachable"; socketPath: string; detail: string }
  | { code: "socket_in_use"; socketPath: string }
  | { code: "token_refused"; detail: string }
  | { code: "peer_refused"; uid: number }
  | { code: "trace_invalid"; where: string; detail: string }
  | { code: "trace_missing"; reference: string }
  | { code: "request_invalid"; field: string; detail: string; hint?: string }
  | { code: "request_slow"; timeoutMs: number }
  | { code: "request_too_large"; field: string; bytesMax: number }
  | { code: "route_unknown"; path: string }
  | { code: "method_unsupported"; method: string; path: string; allowed: readonly string[] }
  | { code: "image_unknown"; name: string }
  | { code: "image_in_use"; name: string; detail: string }
  | { code: "nothing_matches"; reference: string; names: string }
  | { code: "trace_mismatch"; reference: string; detail: string }
  | { code: "prefetch_unknown"; id: string }
  | { code: "daemon_busy"; detail: string }
  | { code: "daemon_not_ready"; detail: string }
  | { code: "mount_failed"; target: string; detail: string }
  | { code: "mount_unknown"; target: string; detail: string }
  | { code: "mount_busy"; target: string }
  | { code: "addon_missing"; detail: string }
  | { code: "internal"; detail: string };

export type Code = Fault["code"];

export interface Policy {
  /** `same-source`: may succeed on a second try at the same host. `never`: trying again cannot help. */
  readonly retry: "never" | "same-source";
  /** What the kernel is told where its protocol carries an errno (copen). */
  readonly errno: number;
  /** Exit status of a command that ends with this fault (README "Exit status"). */
  readonly exitCode: number;
  readonly hint: string;
}

const EIO = 5;
const ENOENT = 2;
const EACCES = 13;
const EINVAL = 22;
const ENOSPC = 28;
const ETIMEDOUT = 110;

const USAGE = 2;
const ENVIRONMENT = 3;
const REMOTE = 4;
const IMAGE = 5;
const DAEMON = 6;

export const ERROR_POLICY = {
  config_invalid: policy("never", EINVAL, USAGE, "correct the configuration file"),
  usage_invalid: policy("never", EINVAL, USAGE, "see `erofsd --help`"),
  reference_invalid: policy(
    "never",
    EINVAL,
    USAGE,
    "write host[:port]/repo[:tag][@digest], or oci:PATH[:tag]",
  ),
  registry_unreachable: policy(
    "same-source",
    EIO,
    REMOTE,
    "check the network, the host name and that the registry runs",
  ),
  registry_timeout: policy(
    "same-source",
    ETIMEDOUT,
    REMOTE,
    "the registry is too slow or the deadline too short ([registry] and [limits] in the config)",
  ),
  registry_unauthorized: policy(
    "never",
    EACCES,
    REMOTE,
    "the registry wants (other) credentials for this repository: see `erofsd login --help`",
  ),
  registry_throttled: policy(
    "same-source",
    EIO,
    REMOTE,
    "the registry limits our rate; lower registry.connections",
  ),
  registry_failed: policy("same-source", EIO, REMOTE, "the registry itself fails; see its log"),
  registry_protocol: policy(
    "same-source",
    EIO,
    REMOTE,
    "the registry, or a proxy before it, does not serve byte ranges as RFC 9110 asks",
  ),
  manifest_not_found: policy("never", ENOENT, REMOTE, "check the repository and the tag"),
  blob_not_found: policy(
    "never",
    EIO,
    REMOTE,
    "the image in the registry is incomplete; push it again",
  ),
  blob_truncated: policy(
    "never",
    EIO,
    REMOTE,
    "the blob in the registry is damaged; push it again",
  ),
  digest_mismatch: policy(
    "same-source",
    EIO,
    REMOTE,
    "the bytes are not what their digest says; do not trust this source",
  ),
  manifest_invalid: policy(
    "never",
    EINVAL,
    IMAGE,
    "the manifest does not follow the OCI image specification",
  ),
  image_unsupported: policy("never", EINVAL, IMAGE, "convert the image to EROFS layers"),
  image_invalid: policy("never", EINVAL, IMAGE, "the image is damaged; build and push it again"),
  chunk_untrusted: policy(
    "never",
    EIO,
    IMAGE,
    "no image that is bound vouches for these bytes of the blob",
  ),
  layout_failed: policy("never", EIO, IMAGE, "check the OCI image-layout directory"),
  directory_failed: policy("never", EIO, IMAGE, "check the directory or file that holds the blobs"),
  key_refused: policy("never", EINVAL, USAGE, "use `erofsd mount`, which chooses a safe name"),
  key_unknown: policy(
    "never",
    ENOENT,
    IMAGE,
    "mount the image with `erofsd mount`, which names its devices",
  ),
  device_missing: policy(
    "never",
    ENOENT,
    ENVIRONMENT,
    "this kernel has no cachefiles: it needs CONFIG_CACHEFILES and CONFIG_CACHEFILES_ONDEMAND (modprobe cachefiles)",
  ),
  device_busy: policy(
    "never",
    EIO,
    ENVIRONMENT,
    "stop the other daemon first (a cachefilesd, nydusd or erofsd)",
  ),
  device_denied: policy("never", EACCES, ENVIRONMENT, "run as root (CAP_SYS_ADMIN)"),
  door_unsupported: policy(
    "never",
    EINVAL,
    ENVIRONMENT,
    "use a kernel with CONFIG_CACHEFILES_ONDEMAND=y and CONFIG_EROFS_FS_ONDEMAND=y",
  ),
  fanotify_unsupported: policy(
    "never",
    EINVAL,
    ENVIRONMENT,
    "use Linux 6.15 or newer with CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y and CONFIG_EROFS_FS_BACKED_BY_FILE=y, as root",
  ),
  fanotify_unsafe: policy(
    "never",
    EINVAL,
    ENVIRONMENT,
    "mend what keeps the keeper from starting, or set kernel.allow_unsafe = true to take that risk",
  ),
  keeper_running: policy("never", EINVAL, DAEMON, "stop the one that runs first"),
  upgrade_failed: policy("never", EINVAL, DAEMON, "the daemon goes on as it was; see its log"),
  full_unsupported: policy(
    "never",
    EINVAL,
    ENVIRONMENT,
    "use a kernel with CONFIG_EROFS_FS and CONFIG_EROFS_FS_BACKED_BY_FILE or CONFIG_BLK_DEV_LOOP (modprobe erofs loop), as root",
  ),
  no_door: policy("never", EINVAL, ENVIRONMENT, "`erofsd doctor` tells what is missing for each"),
  door_closed: policy(
    "never",
    EINVAL,
    ENVIRONMENT,
    "set kernel.door, or use --door auto or --door full; `erofsd doctor` tells what this kernel has",
  ),
  cache_dir_unsuitable: policy("never", EINVAL, ENVIRONMENT, "use ext4, xfs, or btrfs (fanotify)"),
  kernel_message_invalid: policy("never", EINVAL, DAEMON, "report it with the kernel's version"),
  syscall_failed: policy("never", EIO, ENVIRONMENT, "see the errno"),
  cache_no_space: policy(
    "never",
    ENOSPC,
    ENVIRONMENT,
    "free space on the cache's filesystem, or give it more",
  ),
  cache_write_failed: policy(
    "never",
    EIO,
    ENVIRONMENT,
    "check the cache's filesystem and the kernel's log",
  ),
  deadline_exceeded: policy(
    "same-source",
    ETIMEDOUT,
    REMOTE,
    "the source was too slow; see limits.open_timeout and limits.read_timeout",
  ),
  failed_recently: policy(
    "same-source",
    EIO,
    REMOTE,
    "the same bytes failed a moment ago; the first failure is logged above",
  ),
  cancelled: policy("never", EIO, DAEMON, "nobody waits for it any more"),
  stopping: policy("never", EIO, DAEMON, "the daemon is stopping"),
  state_damaged: policy(
    "never",
    EIO,
    ENVIRONMENT,
    "the file is set aside; names are resolved anew",
  ),
  daemon_unreachable: policy("never", EIO, DAEMON, "does `erofsd serve` run with this socket?"),
  socket_in_use: policy(
    "never",
    EIO,
    ENVIRONMENT,
    "another erofsd answers there; give this one its own control.socket",
  ),
  peer_refused: policy("never", EACCES, USAGE, "run it as root, or as the user the daemon runs as"),
  token_refused: policy(
    "never",
    EACCES,
    USAGE,
    "send what the daemon's control.token_file holds: `--token-file`, or Authorization: Bearer",
  ),
  trace_invalid: policy(
    "never",
    EINVAL,
    IMAGE,
    "record the image again with `erofsd trace record`",
  ),
  trace_missing: policy("never", ENOENT, REMOTE, "record one, and `erofsd trace push` it"),
  request_invalid: policy("never", EINVAL, USAGE, "correct the field"),
  request_slow: policy("never", ETIMEDOUT, USAGE, "send the whole request at once"),
  request_too_large: policy("never", EINVAL, USAGE, "send less"),
  route_unknown: policy("never", ENOENT, USAGE, "GET /openapi.json lists what there is"),
  method_unsupported: policy("never", EINVAL, USAGE, "GET /openapi.json lists what there is"),
  image_unknown: policy("never", ENOENT, IMAGE, "`erofsd images` lists what there is"),
  image_in_use: policy("never", EINVAL, USAGE, "unmount it, or cancel its prefetch, first"),
  nothing_matches: policy(
    "never",
    ENOENT,
    USAGE,
    "name paths as in the image's root; quote globs, so that the shell leaves them alone",
  ),
  trace_mismatch: policy("never", EINVAL, USAGE, "take a trace of this image"),
  prefetch_unknown: policy("never", ENOENT, USAGE, "`erofsd prefetch ls` lists what there is"),
  daemon_busy: policy("same-source", EIO, DAEMON, "try again in a moment"),
  daemon_not_ready: policy("same-source", EIO, DAEMON, "try again in a moment"),
  mount_failed: policy("never", EIO, DAEMON, "the daemon's log has the cause"),
  mount_unknown: policy("never", ENOENT, USAGE, "`erofsd ps` lists what is mounted"),
  mount_busy: policy(
    "never",
    EIO,
    USAGE,
    "end who uses it (`fuser -vm` tells who), or unmount it with --lazy",
  ),
  internal: policy("never", EIO, 1, "this is a bug in erofsd: report it with the log"),
  addon_missing: policy(
    "never",
    EIO,
    ENVIRONMENT,
    "install build-essential python3 libzstd-dev liblz4-dev zlib1g-dev, then run `npm rebuild`",
  ),
} as const satisfies Record<Code, Policy>;

function policy(retry: Policy["retry"], errno: number, exitCode: number, hint: string): Policy {
  return { retry, errno, exitCode, hint };
}

/** A failure of the world. Its message is derived from the fault and names what and where. */
export class DaemonError extends Error {
  readonly fault: Fault;

  constructor(fault: Fault, options?: ErrorOptions) {
    super(describeFault(fault), options);
    this.name = "DaemonError";
    this.fault = fault;
  }

  /** The table's; a fault that knows better what to do has its own hint. */
  get policy(): Policy {
    const policy = ERROR_POLICY[this.fault.code];
    const hint = "hint" in this.fault ? this.fault.hint : undefined;
    return hint === undefined ? policy : { ...policy, hint };
  }
}

/** Any thrown value as a DaemonError; what is not one of ours becomes `otherwise`, or a bug. */
export function asDaemonError(
  error: unknown,
  otherwise: (detail: string) => Fault = (detail) => ({ code: "internal", detail }),
): DaemonError {
  if (error instanceof DaemonError) return error;
  const detail = error instanceof Error ? error.message : String(error);
  return new DaemonError(otherwise(detail), { cause: error });
}

/** Our own bug: stop at once rather than serve a wrong byte. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`invariant broken: ${message}`);
}
