"""Fits on held-out pictures: the texts' weight, the best ranker, fusion and gate."""
