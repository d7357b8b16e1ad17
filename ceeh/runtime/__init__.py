"""The process: ranks, termination signals, random number generators, the terminal."""
