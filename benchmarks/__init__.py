"""Latency, accuracy and memory reports over bundles."""
