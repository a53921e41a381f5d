// SPDX-License-Identifier: Apache-2.0
// What people are told of each fault: what failed and where, without secrets.

import type { Fault } from "./errors.ts";

/** One line for people: what failed, where, without the hint. */
export function describeFault(fault: Fault): string {
  switch (fault.code) {
    case "config_invalid":
      return `${fault.where}: ${fault.detail}`;
    case "usage_invalid":
    case "kernel_message_invalid":
    case "addon_missing":
    case "fanotify_unsupported":
    case "full_unsupported":
    case "internal":
    case "daemon_busy":
    case "daemon_not_ready":
      return fault.detail;
    case "reference_invalid":
      return `"${fault.reference}" is not an image reference: ${fault.detail}`;
    case "registry_unreachable":
      return `registry ${fault.host} cannot be reached: ${fault.detail}`;
    case "registry_timeout":
      return `registry ${fault.host} is too slow: ${fault.detail}`;
    case "registry_unauthorized":
      return `registry ${fault.host} refuses access to ${fault.repository} (HTTP ${fault.status})`;
    case "registry_throttled":
      return `registry ${fault.host} answers 429 Too Many Requests`;
    case "registry_failed":
      return `registry ${fault.host} answers HTTP ${fault.status}: ${fault.detail}`;
    case "registry_protocol":
      return `registry ${fault.host} answers wrongly: ${fault.detail}`;
    case "manifest_not_found":
      return `registry ${fault.host} has no ${fault.wanted} in ${fault.repository}`;
    case "blob_not_found":
      return `registry ${fault.host} has no blob ${fault.digest} in ${fault.repository}`;
    case "blob_truncated":
      return `blob ${fault.digest} at ${fault.where} is damaged: ${fault.detail}`;
    case "digest_mismatch":
      return `${fault.where}: content is ${fault.actual}, not ${fault.expected}`;
    case "manifest_invalid":
    case "image_unsupported":
    case "image_invalid":
    case "chunk_untrusted":
    case "trace_invalid":
      return `${fault.where}: ${fault.detail}`;
    case "layout_failed":
    case "directory_failed":
    case "door_unsupported":
    case "cache_dir_unsuitable":
    case "state_damaged":
      return `${fault.path}: ${fault.detail}`;
    case "key_refused":
    case "key_unknown":
      return `"${fault.key}": ${fault.detail}`;
    case "fanotify_unsafe":
      return `there is no keeper (${fault.detail}), and without one what is not cached would read as zeros if the daemon died`;
    case "keeper_running":
      return `a daemon of this cache is running already (pid ${fault.pid}, its keeper at ${fault.socket})`;
    case "upgrade_failed":
      return `the new daemon cannot take over: ${fault.detail}`;
    case "no_door":
      return `this kernel has no door for images: cachefiles: ${fault.cachefiles}; fanotify: ${fault.fanotify}; full: ${fault.full}`;
    case "door_closed":
      return `the daemon's door is ${fault.open}, not ${fault.wanted}`;
    case "device_missing":
      return `${fault.path} does not exist`;
    case "device_busy":
      return `${fault.path} is in use by another daemon`;
    case "device_denied":
      return `${fault.path} may not be opened`;
    case "syscall_failed":
      return `${fault.syscall}: ${fault.errnoName} (${fault.errno})${fault.detail ? `, ${fault.detail}` : ""}`;
    case "cache_no_space":
      return `no space to cache "${fault.key}": ${fault.detail}`;
    case "cache_write_failed":
      return `writing the cache file of "${fault.key}" failed: ${fault.detail}`;
    case "deadline_exceeded":
      return fault.timeoutMs > 0
        ? `${fault.what} took longer than ${fault.timeoutMs} ms`
        : `${fault.what} was not begun in time`;
    case "failed_recently":
      return `${fault.what} failed a moment ago: ${fault.detail}`;
    case "cancelled":
      return `${fault.what} was cancelled`;
    case "stopping":
      return "the daemon is stopping";
    case "daemon_unreachable":
      return `no daemon answers at ${fault.socketPath}: ${fault.detail}`;
    case "socket_in_use":
      return `a running daemon answers at ${fault.socketPath}`;
    case "token_refused":
      return `the daemon refuses the token: ${fault.detail}`;
    case "peer_refused":
      return `user ${fault.uid} may not use the control socket`;
    case "trace_missing":
      return `the registry has no trace of ${fault.reference}`;
    case "request_invalid":
      return `${fault.field}: ${fault.detail}`;
    case "request_slow":
      return `the request was not there within ${fault.timeoutMs} ms`;
    case "request_too_large":
      return `${fault.field}: longer than ${fault.bytesMax} bytes`;
    case "route_unknown":
      return `there is no ${fault.path}`;
    case "method_unsupported":
      return `${fault.path} does not take ${fault.method}, only ${fault.allowed.join(", ")}`;
    case "image_unknown":
      return `no image is known as "${fault.name}"`;
    case "mount_unknown":
      return `${fault.target} is no mount of erofsd: ${fault.detail}`;
    case "mount_busy":
      return `${fault.target} is in use`;
    case "image_in_use":
      return `"${fault.name}" is in use: ${fault.detail}`;
    case "nothing_matches":
      return `${fault.reference}: no file matches ${fault.names}`;
    case "trace_mismatch":
      return `${fault.reference}: this trace is not of it: ${fault.detail}`;
    case "prefetch_unknown":
      return `there is no prefetch "${fault.id}"`;
    case "mount_failed":
      return `mounting ${fault.target} failed: ${fault.detail}`;
    default:
      return unreachable(fault);
  }
}

function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
