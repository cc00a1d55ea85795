"""A small GRAIN, trained on scenes made for it."""
