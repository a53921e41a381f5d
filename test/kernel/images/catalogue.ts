// SPDX-License-Identifier: Apache-2.0
// What the image maker leaves behind and the tests read: one entry an image.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";

const image = z.strictObject({
  name: z.string(),
  repository: z.string(),
  tag: z.string(),
  /** The source tree, relative to the catalogue's directory. */
  tree: z.string(),
  /** The primary device's file, relative too; only of images that tests serve themselves. */
  file: z.string().optional(),
  /** Devices first, the bootstrap last, as in the manifest. */
  layers: z.array(z.strictObject({ digest: z.string(), size: z.number() })),
  /** A plain `mount -t erofs` can name everything: no devices, or digests in their slots. */
  bareMount: z.boolean(),
  compressed: z.boolean(),
  /** Too large for an emulated processor. */
  large: z.boolean(),
});
export type TestImage = z.infer<typeof image>;

export const CATALOGUE_FILE = "images.json";

export class Catalogue {
  readonly root: string;
  readonly images: readonly TestImage[];

  private constructor(root: string, images: readonly TestImage[]) {
    this.root = root;
    this.images = images;
  }

  static async load(root: string): Promise<Catalogue> {
    const text = await readFile(join(root, CATALOGUE_FILE), "utf8");
    return new Catalogue(root, z.array(image).parse(JSON.parse(text)));
  }

  get(name: string): TestImage {
    const found = this.images.find((each) => each.name === name);
    if (found === undefined) throw new Error(`no test image ${name}`);
    return found;
  }

  treeOf(named: TestImage): string {
    return join(this.root, named.tree);
  }

  fileOf(named: TestImage): string {
    if (named.file === undefined) throw new Error(`the file of ${named.name} was not kept`);
    return join(this.root, named.file);
  }

  get storage(): string {
    return join(this.root, "registry");
  }
}
