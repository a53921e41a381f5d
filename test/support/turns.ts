// SPDX-License-Identifier: Apache-2.0
// Letting promises go on, without letting time pass.

/** Every promise that can go on has gone on, `count` times over. */
export async function turns(count = 3): Promise<void> {
  for (let i = 0; i < count; i += 1) {
    await new Promise<void>((resolve) => {
      setImmediate(resolve);
    });
  }
}
