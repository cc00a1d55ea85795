"""What this machine offers: cores that the process may use, and instruction sets."""
