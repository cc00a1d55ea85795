"""Compiles models and memories into bundles; heavy packages are imported inside the functions that use them."""
