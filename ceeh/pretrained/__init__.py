"""Finds, loads and writes pretrained models."""
