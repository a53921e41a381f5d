// SPDX-License-Identifier: Apache-2.0
// Who may use a control server of a test: root and we, as with the daemon.

import { PeerCheck } from "../../src/control/peers.ts";
import { loadNative } from "../../src/platform/native.ts";

export const ownPeers = (): PeerCheck =>
  new PeerCheck(loadNative({ writerThreads: 1 }), process.geteuid?.() ?? 0);
