// SPDX-License-Identifier: Apache-2.0
// OwnedFd: one owner, closed once, and never while somebody uses the number.

import { describe, expect, test } from "vitest";
import { OwnedFd } from "../../../src/platform/owned-fd.ts";
import { rejectionOf } from "../../support/fault-code.ts";
import { turns } from "../../support/turns.ts";

class Closer {
  readonly closed: number[] = [];
  close(fd: number): void {
    this.closed.push(fd);
  }
}

function gate(): { readonly opened: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

describe("an OwnedFd", () => {
  test("lends its number, fd 0 included, and gives back what the use gives", async () => {
    const owned = new OwnedFd(0, new Closer());
    expect(await owned.borrow(async (fd) => Promise.resolve(fd + 1))).toBe(1);
    expect(owned.number).toBe(0);
  });

  test("closes only when the last borrower is done", async () => {
    const closer = new Closer();
    const owned = new OwnedFd(7, closer);
    const [first, second] = [gate(), gate()];
    const uses = [owned.borrow(() => first.opened), owned.borrow(() => second.opened)];
    const closing = owned.close();
    first.open();
    await turns();
    expect(closer.closed).toEqual([]);
    second.open();
    await closing;
    expect(closer.closed).toEqual([7]);
    await Promise.all(uses);
  });

  test("counts a borrower that failed as done", async () => {
    const closer = new Closer();
    const owned = new OwnedFd(7, closer);
    const use = owned.borrow(() => Promise.reject(new Error("use")));
    const closing = owned.close();
    await expect(use).rejects.toThrow("use");
    await closing;
    expect(closer.closed).toEqual([7]);
  });

  test("refuses use from the moment close is called, while an older use goes on", async () => {
    const owned = new OwnedFd(7, new Closer());
    const { opened, open } = gate();
    const use = owned.borrow(() => opened);
    const closing = owned.close();
    let ran = false;
    const late = owned.borrow(() => {
      ran = true;
      return Promise.resolve();
    });
    expect(await rejectionOf(late)).toBe("cancelled");
    expect(() => owned.number).toThrow(/invariant/);
    expect(ran).toBe(false);
    open();
    await Promise.all([use, closing]);
    expect(await rejectionOf(owned.borrow(() => Promise.resolve()))).toBe("cancelled");
  });

  test("closes once, however often it is asked to", async () => {
    const closer = new Closer();
    const owned = new OwnedFd(7, closer);
    await Promise.all([owned.close(), owned.close()]);
    await owned.close();
    expect(closer.closed).toEqual([7]);
  });

  test("does not close a number it has given away, and cannot give it twice", async () => {
    const closer = new Closer();
    const owned = new OwnedFd(7, closer);
    expect(owned.take()).toBe(7);
    await owned.close();
    expect(closer.closed).toEqual([]);
    expect(() => owned.take()).toThrow(/invariant/);
    expect(await rejectionOf(owned.borrow(() => Promise.resolve()))).toBe("cancelled");
  });

  test("cannot be taken while somebody uses the number", async () => {
    const owned = new OwnedFd(7, new Closer());
    const { opened, open } = gate();
    const use = owned.borrow(() => opened);
    expect(() => owned.take()).toThrow(/invariant/);
    open();
    await use;
    expect(owned.take()).toBe(7);
  });
});
