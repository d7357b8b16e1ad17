"""Figures and tables for people: of a run, of an evaluation, of a comparison."""
