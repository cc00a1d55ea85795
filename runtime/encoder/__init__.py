"""Second: pictures and texts become embeddings in one space."""
