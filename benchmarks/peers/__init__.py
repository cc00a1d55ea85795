"""Other stacks, to be compared with in the same run."""
