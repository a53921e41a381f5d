// SPDX-License-Identifier: Apache-2.0
// All kernel tests, in one process, in this order: main TIER IMAGES. Runs in a guest, as root.

import "./every-image.ts";
import "./nydus.ts";
import "./nydus-registry.ts";
import "./nydus-trust.ts";
import "./nydusd.ts";
import "./nydusd-images.ts";
import "./nydusd-input.ts";
import "./nydusd-faults.ts";
import "./nydusd-damage.ts";
import "./nydusd-cull.ts";
import "./reading.ts";
import "./names.ts";
import "./seeding.ts";
import "./lifecycle.ts";
import "./crashes.ts";
import "./control.ts";
import "./prefetch.ts";
import "./traces.ts";
import "./mounts.ts";
import "./faults.ts";
