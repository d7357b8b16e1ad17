"""What one GPU does: `__main__` lists and runs the parts, and each has a file."""
