"""Milliseconds of each way to rank."""
