"""The memory of a run, planned before it starts: what each part holds, when, and whether it fits."""
