// SPDX-License-Identifier: Apache-2.0
// All kernel tests, in one process, in this order: main TIER IMAGES. Runs in a guest, as root.

import "./every-image.ts";
import "./nydus.ts";
import "./nydusd.ts";
import "./reading.ts";
import "./names.ts";
import "./lifecycle.ts";
import "./faults.ts";
