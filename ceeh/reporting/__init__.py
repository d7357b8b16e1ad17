"""Figures, tables and pages of a run, an evaluation or a comparison."""
