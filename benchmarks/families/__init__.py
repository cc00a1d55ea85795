"""MLLMs of every family with random weights: what their export and a ranking cost."""
