// SPDX-License-Identifier: Apache-2.0
// Server-Sent Events as a client reads them: the text of each `data:` line.

/** The `data:` of each event of a stream. */
export async function* eventDataOf(
  pieces: AsyncIterable<Uint8Array>,
): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const piece of pieces) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice("data: ".length);
  }
}
