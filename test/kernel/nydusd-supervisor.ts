// SPDX-License-Identifier: Apache-2.0
// The snapshotter's supervisor: keeps one state and one device for daemons that die. In Python,
// whose sockets pass file descriptors; it listens only when told to, and accepts once, as the
// snapshotter does.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

const PROGRAM = String.raw`
import os, socket, sys
path = sys.argv[1]
state, device = b"", -1
def listen():
    try: os.unlink(path)
    except FileNotFoundError: pass
    s = socket.socket(socket.AF_UNIX)
    s.bind(path); s.listen(1); s.settimeout(float(sys.argv[2]))
    print("listening", flush=True)
    return s
for line in sys.stdin:
    word = line.split()[0]
    if word == "size":
        print("size", len(state), device >= 0, flush=True)
        continue
    s = listen()
    try:
        c, _ = s.accept()
        c.settimeout(float(sys.argv[2]))
        if word == "receive":
            got, fds = b"", []
            while True:
                data, more, _, _ = socket.recv_fds(c, 262144, 8)
                fds += more
                got += data
                if not data and not more: break
            if fds:
                if device >= 0: os.close(device)
                state, device = got, fds[0]
            print("received", len(got), len(fds), flush=True)
        else:
            if device >= 0: socket.send_fds(c, [state[:1]], [device]); c.sendall(state[1:])
            print("sent", len(state), flush=True)
        c.close()
    except TimeoutError:
        print("timeout", flush=True)
    s.close()
    try: os.unlink(path)
    except FileNotFoundError: pass
`;

export class FakeSupervisor {
  readonly path: string;
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(path: string, timeoutSeconds: number) {
    this.path = path;
    const args = ["-c", PROGRAM, path, String(timeoutSeconds)];
    const child = spawn("python3", args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  /** Listens for a daemon's state; `done` tells its size and how many fds came. */
  async receive(): Promise<{ done: Promise<{ bytes: number; fds: number }> }> {
    await this.#tell("receive");
    const done = this.#line().then((line) => {
      const [word, bytes, fds] = line.split(" ");
      if (word !== "received") throw new Error(`the supervisor was not sent a state: ${line}`);
      return { bytes: Number(bytes), fds: Number(fds) };
    });
    return { done };
  }

  /** Listens for the next daemon, which gets what was received last. */
  async offer(): Promise<{ done: Promise<void> }> {
    await this.#tell("offer");
    const done = this.#line().then((line) => {
      if (!line.startsWith("sent")) throw new Error(`nobody fetched the state: ${line}`);
    });
    // Looked at later, or not at all when the test fails before.
    done.catch(() => undefined);
    return { done };
  }

  /** Drops the device. */
  async stop(): Promise<void> {
    const ended = once(this.#child, "exit");
    this.#child.stdin?.end();
    await ended;
  }

  async #tell(word: string): Promise<void> {
    this.#child.stdin?.write(`${word}\n`);
    const line = await this.#line();
    if (line !== "listening") throw new Error(`the supervisor said ${line}`);
  }

  async #line(): Promise<string> {
    const next = await this.#lines.next();
    return next.done === true ? "nothing" : next.value;
  }
}
