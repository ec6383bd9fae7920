"""GPUs: which of them form a chunk, which are free, and which service is resident where.

`chunks` is the topology (pure), `view` counts it for the scheduler; the live server and the
simulator use the same. Importing this package does no IO and loads no driver.
"""

from .view import CHUNKS_VIEW, ChunksView

__all__ = ["CHUNKS_VIEW", "ChunksView"]
