"""Drills: what a run is said to survive, done to a real one, and the figures; `python -m fault_injection.NAME`."""
