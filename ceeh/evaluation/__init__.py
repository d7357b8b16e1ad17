"""Judging a policy: samples of questions, figures with intervals, benchmarks, comparison."""
