"""Dual encoders from open_clip and Hugging Face as a bundle's `clip` component."""
