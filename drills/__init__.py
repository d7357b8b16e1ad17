"""Drills: what goes wrong on purpose, and what it costs; each is a module, `python -m drills.NAME`."""
