"""Boxes that are named, on frames whose objects are known."""
