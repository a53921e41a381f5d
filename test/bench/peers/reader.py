# SPDX-License-Identifier: Apache-2.0
# Reads of single blocks of a file, timed; prints milliseconds as JSON.
#   reader.py FILE few|random
import json, os, random, sys, time

path, how = sys.argv[1:]
file = os.open(path, os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
blocks = os.fstat(file).st_size // 4096
if how == "few":
    wanted = [blocks // 6, blocks // 2, blocks * 5 // 6]
else:
    chance = random.Random(5)
    wanted = [chance.randrange(0, blocks) for _ in range(300)]
took = []
for block in wanted:
    start = time.monotonic()
    os.pread(file, 4096, block * 4096)
    took.append((time.monotonic() - start) * 1e3)
print(json.dumps(took))
