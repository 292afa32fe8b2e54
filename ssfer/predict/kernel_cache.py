"""Bound oneDNN's cache of compiled kernels, which grows with every new number of faces in a batch."""

import os

KERNELS = 16  # more do not make videos or photos faster (benchmarks.video, benchmarks.predict)


def bound_kernel_cache() -> None:
    """Let oneDNN keep few kernels, unless the user has set how many; call it before torch is imported.

    It compiles one per layer and batch size, keeps 1,024, and detection has another batch size for every frame. In a
    video of ten minutes that is half a gigabyte. Training needs one size, but more layers than fit here.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
