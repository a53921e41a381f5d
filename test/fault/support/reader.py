# SPDX-License-Identifier: Apache-2.0
# Reads trees again and again, in an order of its own, and compares every byte with what they were
# made of: reader.py SEED SLOW_SECONDS LIMIT_SECONDS [TREE MOUNTED]... It ends, with a last line, when
# its standard input does; at once, with status 1, at a wrong byte or a read that took longer than its
# limit. One that was slow is told.
import errno, json, os, random, select, sys, time

seed, slow, limit = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
pairs = list(zip(sys.argv[4::2], sys.argv[5::2]))
rng = random.Random(seed)
told = {"reads": 0, "bytes": 0, "slowest": 0.0, "rounds": 0}


def tell(**what):
    print(json.dumps(what), flush=True)


def is_over():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def fail(**what):
    tell(at=time.time(), **what)
    sys.exit(1)


def read(fd, length, offset, name, requests):
    """What is there; a failed read is told and tried again."""
    while True:
        start = time.time()
        try:
            return os.pread(fd, length, offset)
        except OSError as error:
            tell(failed=errno.errorcode[error.errno], name=name, start=start, end=time.time())
            if is_over():
                sys.exit(0)
            time.sleep(0.25)
        finally:
            took = time.time() - start
            told["slowest"] = max(told["slowest"], took)
            if took > requests * limit:
                fail(slow=took, name=name, offset=offset)
            if took > requests * slow:
                tell(late=name, requests=requests, start=start, end=start + took)


def compare(tree, mounted, name):
    with open(os.path.join(tree, name), "rb") as file:
        good = file.read()
    fd = os.open(os.path.join(mounted, name), os.O_RDONLY)
    # Without read-ahead a read is one request of the kernel's, with one deadline.
    is_random = rng.random() < 0.7
    if is_random:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    lengths, requests = ([4096, 65536], 1) if is_random else ([131072], 2)
    # What the page cache has is asked of the cache file again.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    offset = 0
    while offset < len(good) and not is_over():
        length = min(rng.choice(lengths), len(good) - offset)
        data = read(fd, length, offset, name, requests)
        # Less than was asked for: what came before a failure.
        if not data or data != good[offset : offset + len(data)]:
            fail(wrong=name, offset=offset, length=length, got=len(data), zeros=data.count(0))
        offset += len(data)
        told["reads"] += 1
        told["bytes"] += len(data)
    os.close(fd)


names = {tree: sorted(os.path.relpath(os.path.join(at, name), tree)
                      for at, _, files in os.walk(tree) for name in files
                      if not os.path.islink(os.path.join(at, name))) for tree, _ in pairs}
while not is_over():
    work = [(tree, mounted, name) for tree, mounted in pairs for name in names[tree]]
    rng.shuffle(work)
    for tree, mounted, name in work:
        if is_over():
            break
        compare(tree, mounted, name)
    told["rounds"] += 1
tell(**told)
