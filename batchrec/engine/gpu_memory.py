"""Where arrays and frames of a GPU take their memory from."""

from __future__ import annotations

FIRST_POOL = 1 << 30
"""Bytes that the pool of a process without one begins with; it grows by as much as it has."""


def use_a_pool() -> None:
    """Let CuPy and cuDF take the memory of a GPU from one pool (RMM), where this process has none yet.

    Without it every array asks the driver, which waits until the GPU is idle to give memory back. A worker of dask-cuda
    has its pool already.
    """
    import cupy
    import rmm
    from rmm.allocators.cupy import rmm_cupy_allocator

    if isinstance(rmm.mr.get_current_device_resource(), rmm.mr.CudaMemoryResource):
        pool = rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), initial_pool_size=FIRST_POOL)
        rmm.mr.set_current_device_resource(pool)
    cupy.cuda.set_allocator(rmm_cupy_allocator)
