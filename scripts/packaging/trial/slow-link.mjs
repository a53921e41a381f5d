// SPDX-License-Identifier: Apache-2.0
// slow-link.mjs PORT TARGET_PORT BYTES_PER_SECOND: a loopback relay whose answers come no faster,
// over all connections together.

import { connect, createServer } from "node:net";

const [port, target, rate] = process.argv.slice(2).map(Number);
const TURN_MS = 20;
let allowance = 0;
const waiting = new Set();
setInterval(() => {
  allowance = Math.min(allowance + (rate * TURN_MS) / 1000, rate / 10);
  for (const upstream of waiting) if (allowance > 0) upstream.resume();
}, TURN_MS);

createServer((client) => {
  const upstream = connect(target, "127.0.0.1");
  client.pipe(upstream);
  waiting.add(upstream);
  upstream.on("data", (piece) => {
    allowance -= piece.length;
    client.write(piece);
    if (allowance <= 0) upstream.pause();
  });
  const end = () => {
    waiting.delete(upstream);
    client.destroy();
    upstream.destroy();
  };
  for (const socket of [client, upstream]) socket.on("close", end).on("error", end);
}).listen(port, "127.0.0.1");
