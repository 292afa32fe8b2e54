"""Time and memory of the index that finds near copies, on random hashes; some blocks of rows stand for all.

Example:
    python -m benchmarks.copies_index 1200000 10000000 100000000     # the last takes 8 GB and 10 minutes
"""

from __future__ import annotations

import argparse
import pickle
import resource
import time

import numpy as np

from ssfer.copies.hamming import HammingIndex

BLOCK = 4096  # rows of a task on a cluster


def measure(rows: int, bits: int, blocks: int) -> str:
    """Return a line of the table."""
    hashes = np.random.default_rng(0).integers(1, 2**64, rows, dtype=np.uint64)
    start = time.process_time()
    index = HammingIndex(hashes, bits)
    built = time.process_time() - start
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps((hashes, index), protocol=5, buffer_callback=buffers.append)
    size = sum(buffer.raw().nbytes for buffer in buffers)
    start = time.process_time()
    firsts = np.linspace(0, max(rows - BLOCK, 0), blocks).astype(int).tolist()
    looked_up = sum(min(first + BLOCK, rows) - first for first in firsts)
    for first in firsts:
        for _ in index.pairs(hashes, before=True, first=first, stop=min(first + BLOCK, rows)):
            pass
    row = (time.process_time() - start) / looked_up
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"| {rows:,} | {len(index.bands)} | {built:.1f} s | {size / 1e6:,.0f} MB | {memory:,.0f} MB | "
        f"{row * 1e6:,.0f} us | {row * rows / 3600:,.2f} h |"
    )


def main() -> None:
    """Parse the command line and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+", help="numbers of hashes, in growing order")
    parser.add_argument("--bits", type=int, default=8, help="largest Hamming distance (default 8)")
    parser.add_argument("--blocks", type=int, default=8, help="blocks of 4,096 rows that are looked up (default 8)")
    args = parser.parse_args()
    print("| hashes | bands | built in | index | peak | a row | all rows, one core |\n|---|---|---|---|---|---|---|")
    for rows in args.rows:
        print(measure(rows, args.bits, args.blocks), flush=True)


if __name__ == "__main__":
    main()
