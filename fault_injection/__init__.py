"""Faults injected into real runs, one experiment per file: `python -m fault_injection.NAME`."""
