"""What one GPU does: `__main__` runs the parts, `parts` lists them, and each has a file."""
