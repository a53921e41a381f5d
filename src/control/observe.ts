// SPDX-License-Identifier: Apache-2.0
// What happens in the other rooms, told to whoever listens for events.

import type { DaemonError } from "../errors.ts";
import type { KernelHandler, OpenRequest } from "../kernel/transport.ts";
import type { OurMount } from "../mounts/mount-list.ts";
import type { Binding, CookieName } from "../state/bindings.ts";
import type { EventHub } from "./event-hub.ts";
import { failureOf } from "./failures.ts";
import type { FailureLog } from "./operations.ts";

/** `handler`, with each object that it opens and each that the kernel closes told to `events`. */
export function observedHandler(handler: KernelHandler, events: EventHub): KernelHandler {
  return {
    open(request) {
      handler.open(observedOpen(request, events));
    },
    read(request) {
      handler.read(request);
    },
    closed(object) {
      handler.closed(object);
      const { cookieKey: fsid, volumeKey: volume } = object;
      events.publish({ type: "object-closed", fsid, volume });
    },
  };
}

/** For Bindings: tells of names that stand for something new. */
export function bindingObserver(events: EventHub) {
  return ({ cookieKey: fsid }: CookieName, bound: Binding, before: Binding | undefined): void => {
    const { reference, manifestDigest } = bound;
    const isNew = before?.manifestDigest !== manifestDigest || before.unbound === true;
    if (isNew) events.publish({ type: "image-bound", fsid, reference, manifestDigest });
  };
}

/** For MountWatch: tells of mounts that come and go. */
export function mountObserver(events: EventHub) {
  return (type: "mounted" | "unmounted", mount: OurMount): void => {
    const { mountPoint, door, fsid = mount.image?.cookieKey, image } = mount;
    events.publish({
      type,
      mountPoint,
      door,
      ...(fsid === undefined ? {} : { fsid }),
      ...(image === undefined
        ? {}
        : { reference: image.binding.reference, manifestDigest: image.binding.manifestDigest }),
    });
  };
}

/** Failures, kept for whoever asks for the last one of a key, and told to whoever listens. */
export function failureObserver(failures: FailureLog, events: EventHub) {
  return {
    ofFill: (keys: readonly string[], error: DaemonError): void => {
      for (const key of keys) failures.record(key, error);
      events.publish({ type: "fill-failed", fsids: [...keys], failure: failureOf(error) });
    },
    ofOpen: (key: string, error: DaemonError): void => {
      failures.record(key, error);
      events.publish({ type: "open-failed", fsid: key, failure: failureOf(error) });
    },
  };
}

function observedOpen(request: OpenRequest, events: EventHub): OpenRequest {
  const { volumeKey, cookieKey } = request;
  return {
    volumeKey,
    cookieKey,
    get answered() {
      return request.answered;
    },
    accept(sizeBytes) {
      const object = request.accept(sizeBytes);
      if (object !== undefined) {
        events.publish({ type: "object-opened", fsid: cookieKey, volume: volumeKey, sizeBytes });
      }
      return object;
    },
    refuse(error) {
      request.refuse(error);
    },
  };
}
