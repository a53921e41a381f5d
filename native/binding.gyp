# SPDX-License-Identifier: Apache-2.0
# The addon, with the system's libzstd, liblz4 and zlib, and the keeper. Build them with
#   node-gyp rebuild --directory native [--nodedir=/usr]
# `--werror=false` is for compilers newer than the ones this is tested with;
# `--sanitize=true` (with a preloaded libasan, see asan.sh) for the sanitizers.
{
  "variables": { "werror%": "true", "sanitize%": "false" },
  "targets": [
    {
      "target_name": "erofsd",
      "sources": [
        "src/addon.cc",
        "src/args.cc",
        "src/attributes.cc",
        "src/callback.cc",
        "src/datagram.cc",
        "src/decode.cc",
        "src/device.cc",
        "src/fanotify.cc",
        "src/fd-passing.cc",
        "src/fd-watcher.cc",
        "src/file.cc",
        "src/job-pool.cc",
        "src/job.cc",
        "src/layout.cc",
        "src/loop-handle.cc",
        "src/memory.cc",
        "src/pool-handle.cc",
        "src/takeover.cc",
        "src/unix-exchange.cc",
        "src/workers.cc"
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=8",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS",
        "_FILE_OFFSET_BITS=64"
      ],
      "libraries": ["-lzstd", "-llz4", "-lz"],
      "cflags": ["-Wall", "-Wextra", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"],
      "cflags_cc": ["-std=c++17"],
      "ldflags": ["-Wl,-z,relro,-z,now"],
      "conditions": [
        ["werror=='true'", { "cflags": ["-Werror"] }],
        [
          "sanitize=='true'",
          {
            "cflags": ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"],
            "ldflags": ["-fsanitize=address,undefined"]
          }
        ]
      ]
    },
    {
      "target_name": "erofsd-keeper",
      "type": "executable",
      "sources": [
        "keeper/failing-cachefiles.c",
        "keeper/failing-fanotify.c",
        "keeper/keeper.c",
        "keeper/supervise.c"
      ],
      # Nothing of node's: a few pages of memory are all it may take.
      "include_dirs!": ["<(node_root_dir)/include/node"],
      "cflags": ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"],
      "ldflags!": ["-rdynamic"],
      "ldflags": ["-Wl,-z,relro,-z,now", "-Wl,--as-needed"],
      "conditions": [["werror=='true'", { "cflags": ["-Werror"] }]]
    }
  ]
}
