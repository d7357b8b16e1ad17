"""ceeh: reinforcement learning that compresses the easy and explores the hard (arXiv 2602.22642)."""

import os

# Before the first import of torch. Its C++ warnings, and those of vLLM's CPU kernels on NUMA and oneDNN, go
# to the terminal past Python's filters; errors still do.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
