"""ceeh: reinforcement learning that compresses the easy and explores the hard (arXiv 2602.22642)."""
