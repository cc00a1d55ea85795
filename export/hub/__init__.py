"""Bundles to and from a repository of a model hub."""
