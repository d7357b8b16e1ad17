"""Evaluating a policy: samples of benchmarks, metrics with intervals, comparison of policies."""
