"""Where arrays and frames of a GPU take their memory from."""

from __future__ import annotations

FIRST_POOL = 1 << 30
"""Bytes that cuDF's pool begins with; it grows by as much as it has."""


def use_pools() -> None:
    """Let frames and arrays take the memory of a GPU from pools.

    Without one, every frame and every array asks the driver, which waits until the GPU is idle to give memory back.
    cuDF, when it is imported, lets CuPy take memory from RMM by a function in Python, which took a sixth of the time in
    which a partition's lists were made (docs/decisions/018-search-on-a-gpu.md); here CuPy has its own. A worker of
    dask-cuda has a pool of RMM already, which stays.
    """
    import cudf  # noqa: F401 - before CuPy's allocator is set
    import cupy
    import rmm

    if isinstance(rmm.mr.get_current_device_resource(), rmm.mr.CudaMemoryResource):
        pool = rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), initial_pool_size=FIRST_POOL)
        rmm.mr.set_current_device_resource(pool)
    cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
