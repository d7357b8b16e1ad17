"""A rollout step on 1 to 512 GPUs by arithmetic: `__main__` prints or writes the tables."""
