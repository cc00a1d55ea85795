"""Recall, speed and size of the memory."""
