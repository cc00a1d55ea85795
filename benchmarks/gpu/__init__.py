"""What a GPU can show in ten minutes: parity, speed beside PyTorch, ranking beside transformers, engines, power."""
