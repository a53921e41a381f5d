// SPDX-License-Identifier: Apache-2.0
// The one rule of the addon about syscalls: EINTR is retried, any other failure becomes -errno.
#pragma once

#include <cerrno>
#include <cstdint>

namespace erofsd {

// Calls `call` until it does not fail with EINTR; its result, or -errno.
template <typename Call>
int64_t RetryEintr(Call call) {
  for (;;) {
    const int64_t result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -static_cast<int64_t>(errno);
  }
}

}  // namespace erofsd
