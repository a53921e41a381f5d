// SPDX-License-Identifier: Apache-2.0
// A promise that somebody else resolves, once.

export interface Deferred {
  readonly promise: Promise<void>;
  readonly isResolved: boolean;
  resolve(): void;
}

export function deferred(): Deferred {
  let settle: () => void = () => undefined;
  let isResolved = false;
  const promise = new Promise<void>((resolve) => {
    settle = resolve;
  });
  return {
    promise,
    get isResolved() {
      return isResolved;
    },
    resolve() {
      isResolved = true;
      settle();
    },
  };
}
