"""Models from elsewhere: where they are, loading them, writing their files."""
