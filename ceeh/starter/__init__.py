"""The starter: a procedural reasoning task and a small model trained on it, for a first run anywhere."""
