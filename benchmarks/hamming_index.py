"""Time and memory of comparing random perceptual hashes with each other, by the index that `corpus` uses.

Example:
    python -m benchmarks.hamming_index 12000 120000 1200000      # 10000000 takes half an hour
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from ssfer.copies.hamming import HammingIndex


def main() -> None:
    """Parse the command line and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hashes", type=int, nargs="+", help="numbers of hashes, in growing order")
    parser.add_argument("--bits", type=int, default=8, help="largest Hamming distance (default 8)")
    args = parser.parse_args()
    print("| hashes | bands | time | pairs | peak memory |\n|---|---|---|---|---|")
    for count in args.hashes:
        hashes = np.random.default_rng(0).integers(1, 2**64, count, dtype=np.uint64)
        start = time.monotonic()
        index = HammingIndex(hashes, args.bits)
        pairs = sum(len(i) for i, _ in index.pairs(hashes, before=True))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"| {count:,} | {len(index.bands)} | {time.monotonic() - start:.1f} s | {pairs} | {memory:.0f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
