"""The run folder: checkpoints, metrics, atomic writes, disk space."""
