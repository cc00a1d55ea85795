"""What a bundle holds, and whether it works."""
