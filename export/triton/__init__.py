"""Bundles as models of NVIDIA's Triton server."""
