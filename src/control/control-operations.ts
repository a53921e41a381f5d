// SPDX-License-Identifier: Apache-2.0
// What the daemon can be asked over its control socket. Each method may fail with a DaemonError;
// `signal` ends the wait of whoever asked, never the work that others may share.

import type { ConfigView } from "../config/config-view.ts";
import type { ActivityAnswer } from "./activity-schema.ts";
import type { ImageHistory } from "./history-schema.ts";
import type { CacheUsage, ImageDetail, ImageSummary } from "./image-schema.ts";
import type { ChangeConfig, PruneRequest, PrunedAnswer, RemovedImage } from "./cache-schema.ts";
import type { MadeMountAnswer, MountRequest } from "./mount-schema.ts";
import type {
  ChangePrefetch,
  PrefetchView,
  StartPrefetch,
  StartedPrefetch,
} from "./prefetch-schema.ts";
import type {
  DropCredentials,
  Health,
  PastFailure,
  PushCredentials,
  RegisterRequest,
  RegisteredImage,
  Status,
} from "./schema.ts";
import type { TextAnswer } from "./route.ts";
import type { TraceWish } from "./trace-recorder.ts";

export interface ControlOperations {
  health(): Health;
  /** Faults: daemon_not_ready, stopping. */
  checkReady(): void;
  /** Without secrets. */
  config(): ConfigView;
  register(request: RegisterRequest, signal: AbortSignal): Promise<RegisteredImage>;
  /** In the order of their binding: the newest last. */
  images(): Promise<readonly ImageSummary[]>;
  /** By fsid, reference or manifest digest. Fault: image_unknown. */
  image(name: string): Promise<ImageDetail>;
  /** Mounts an image; `signal` ends the wait alone. */
  mount(request: MountRequest, signal: AbortSignal): Promise<MadeMountAnswer>;
  /** What is mounted and about to be, whoever did it: a mountsAnswer. */
  mounts(): Promise<TextAnswer>;
  /** Faults: mount_unknown, mount_busy. */
  unmount(mountPoint: string, options: { lazy: boolean }): Promise<{ mountPoint: string }>;
  /** Where its files lie, lines of JSON as they are found. Faults: image_unknown, image_*, those of its source. */
  imageFiles(name: string, signal: AbortSignal): AsyncIterable<string>;
  /** What its streams have been asked for and have got since they were opened. Fault: image_unknown. */
  imageHistory(name: string): ImageHistory;
  /** Faults: image_unknown, image_in_use, which says by whom. */
  removeImage(name: string): Promise<RemovedImage>;
  cacheUsage(): Promise<CacheUsage>;
  /** What is in use stays. Fault: image_unknown. */
  pruneCache(request: PruneRequest): Promise<PrunedAnswer>;
  /** Until the daemon stops. Fault: request_invalid. */
  changeConfig(changes: ChangeConfig): ConfigView;
  lastFailure(cookieKey: string): PastFailure;
  status(): Status;
  activity(): ActivityAnswer;
  /** In Prometheus' text format. */
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
  pushCredentials(request: PushCredentials): void;
  /** False when there were none. */
  dropCredentials(request: DropCredentials): boolean;
  /** Starts the program as it is on disk now, to take over: its process id. Faults: upgrade_failed, daemon_busy, stopping. */
  upgrade(): Promise<{ readonly pid: number }>;
  /** Lines of JSON as they come, until they end or `signal` aborts. */
  trace(wish: TraceWish, signal: AbortSignal): AsyncIterable<string>;
  /** Faults: nothing_matches, trace_mismatch, daemon_busy, and those of resolving a reference. */
  startPrefetch(request: StartPrefetch, signal: AbortSignal): Promise<StartedPrefetch>;
  prefetches(): readonly PrefetchView[];
  /** Fault of this and the next three: prefetch_unknown. */
  prefetch(id: string): PrefetchView;
  changePrefetch(id: string, change: ChangePrefetch): Promise<PrefetchView>;
  /** One that has ended is forgotten. */
  cancelPrefetch(id: string): Promise<PrefetchView>;
  /** Server-Sent Events whenever it has got on, until it has ended or `signal` aborts. */
  watchPrefetch(id: string, signal: AbortSignal): AsyncIterable<string>;
  /** Server-Sent Events as they come, until the daemon stops or `signal` aborts. */
  events(signal: AbortSignal): AsyncIterable<string>;
}
