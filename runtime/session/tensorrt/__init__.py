"""Engines of TensorRT and TensorRT-RTX: what a bundle stores, and what runs them."""
