"""One NVIDIA GPU: its properties, its memory, and the two packages that reach its driver."""
