"""Fourth: rankers that put the k candidates of the memory in order, and what was tuned for them."""
