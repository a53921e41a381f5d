#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the addon with AddressSanitizer and UBSan in a directory of its own, and runs its tests
# with that. Leak detection is off: node itself leaves memory to the exit of the process. The
# tests that preload a library of their own (pwrite-faults) are left out.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

cp -r "$root/native/binding.gyp" "$root/native/keeper" "$root/native/src" "$build/"
prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
nodedir=()
if [[ -f $prefix/include/node/node.h ]]; then nodedir=("--nodedir=$prefix"); fi
NODE_PATH=$root/node_modules "$root/node_modules/.bin/node-gyp" rebuild --silent \
  --directory "$build" --sanitize=true "${nodedir[@]}"

cd "$root"
export EROFSD_NATIVE_DIR=$build
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
LD_PRELOAD="$(c++ -print-file-name=libasan.so):$(c++ -print-file-name=libubsan.so)" \
  node node_modules/vitest/vitest.mjs run --config scripts/config/vitest.config.ts --root . \
  test/unit/platform/addon.test.ts test/unit/platform/decode.test.ts test/unit/platform/inflate.test.ts \
  test/unit/platform/teardown.test.ts "$@"
