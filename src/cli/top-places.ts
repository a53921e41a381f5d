// SPDX-License-Identifier: Apache-2.0
// Whose the objects are that the daemon tells of: images, where they are mounted, and which file
// lies at some bytes of them. Asked for when something new shows up, and kept.

import type { ActivityAnswer } from "../control/activity-schema.ts";
import { ask, askStream } from "../control/client.ts";
import { type ImageDetail, imageDetail, imagesAnswer } from "../control/image-schema.ts";
import { mountsAnswer } from "../control/mount-schema.ts";
import { fileLine } from "../control/schema.ts";
import { FileIndex, NO_FILE } from "../image/trace-files.ts";
import type { TopMount } from "./top-view.ts";

/** Images whose files are kept in mind. */
const INDEXES_MAX = 16;
/** Pictures from which on mounts are asked for again. */
const LEARN_EVERY = 10;

interface Known {
  readonly image: ImageDetail;
  readonly mount: TopMount;
  /** Undefined: not asked for yet, or still coming. */
  index: FileIndex | undefined;
  isAsked: boolean;
}

export class TopPlaces {
  readonly #socketPath: string;
  #known: Known[] = [];
  #seen = "";
  #looks = 0;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /** The images of these objects. Asks anew when the objects are others. Faults as `ask`. */
  async look({ objects, slow, waiting }: ActivityAnswer): Promise<readonly TopMount[]> {
    const seen = objects.map(({ fsid }) => fsid).join("\n");
    this.#looks += 1;
    // Objects are open before their mount is made, and after it has gone.
    if (seen !== this.#seen || this.#looks % LEARN_EVERY === 0) {
      await this.#learn(objects);
      this.#seen = seen;
    }
    for (const { fsid } of [...waiting, ...slow]) this.#askFiles(fsid);
    return this.#known.map(({ mount }) => mount);
  }

  fileOf(fsid: string, offset: number, length: number): string | undefined {
    for (const { index, image } of this.#known) {
      const device = deviceOf(image, fsid);
      if (index === undefined || device === -1) continue;
      for (const { path } of index.within(device, { offset, length })) {
        if (path !== NO_FILE) return path;
      }
    }
    return undefined;
  }

  async #learn(objects: ActivityAnswer["objects"]): Promise<void> {
    const path = "/v1/images";
    const { images } = await ask(this.#socketPath, { method: "GET", path, answer: imagesAnswer });
    const at = { method: "GET", path: "/v1/mounts", answer: mountsAnswer } as const;
    const { mounts } = await ask(this.#socketPath, at);
    const before = new Map(this.#known.map((known) => [known.image.manifestDigest, known]));
    const open = new Set(objects.map(({ fsid }) => fsid));
    const known: Known[] = [];
    for (const { fsid, manifestDigest, open: isOpen } of images) {
      if (!isOpen) continue;
      const image = before.get(manifestDigest)?.image ?? (await this.#detail(fsid));
      if (image === undefined) continue;
      const fsids = [...open].filter((each) => deviceOf(image, each) !== -1);
      const mountPoint = mounts.find((each) => each.fsid === fsid)?.mountPoint ?? "-";
      const mount = { mountPoint, reference: image.reference, fsids };
      const { index, isAsked = false } = before.get(manifestDigest) ?? {};
      known.push({ image, mount, index, isAsked });
    }
    this.#known = known;
  }

  /** Undefined: it is gone meanwhile. */
  async #detail(fsid: string): Promise<ImageDetail | undefined> {
    const path = `/v1/images/${encodeURIComponent(fsid)}`;
    const asking = ask(this.#socketPath, { method: "GET", path, answer: imageDetail });
    return asking.catch(() => undefined);
  }

  /** Nobody waits for them: names come with a later picture. */
  #askFiles(fsid: string): void {
    const one = this.#known.find(({ image }) => deviceOf(image, fsid) !== -1);
    const asked = this.#known.filter(({ isAsked }) => isAsked).length;
    if (one === undefined || one.isAsked || asked >= INDEXES_MAX) return;
    one.isAsked = true;
    void filesOf(this.#socketPath, one.image.fsid)
      .then((index) => {
        one.index = index;
      })
      // Without names what is slow is still shown.
      .catch(() => undefined);
  }
}

/** Which of the image's streams is opened by this key: 0 the primary one, -1 none. */
function deviceOf({ fsid, streams }: ImageDetail, key: string): number {
  if (key === fsid) return 0;
  return streams.findIndex(
    ({ digest }) => key.length >= 57 && (digest.startsWith(key) || digest === `sha256:${key}`),
  );
}

async function filesOf(socketPath: string, fsid: string): Promise<FileIndex> {
  const path = `/v1/images/${encodeURIComponent(fsid)}/files`;
  const decoder = new TextDecoder();
  const files: ConstructorParameters<typeof FileIndex>[0][number][] = [];
  let rest = "";
  for await (const piece of askStream(socketPath, path, new AbortController().signal)) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const value = fileLine.parse(JSON.parse(line));
      if ("file" in value) files.push(value);
    }
  }
  return new FileIndex(files);
}
