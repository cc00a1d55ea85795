"""Boxes of detected objects instead of whole pictures: frames, annotation files, confidence."""
