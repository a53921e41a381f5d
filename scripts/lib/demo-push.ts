// SPDX-License-Identifier: Apache-2.0
// Pushes the demo's image into a registry's storage: demo-push IMAGE STORAGE REPOSITORY TAG.

import { startDockerRegistry } from "../../test/support/docker-registry.ts";
import { pushImage } from "../../test/support/push.ts";

const [image = "", storage = "", repository = "", tag = ""] = process.argv.slice(2);
const registry = await startDockerRegistry({ storage });
try {
  const mediaType = "application/vnd.erofs.layer.v1";
  await pushImage({ host: registry.host, repository }, tag, [{ body: { path: image }, mediaType }]);
} finally {
  await registry.stop();
}
