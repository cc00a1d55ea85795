"""A bundle's memory: built from pictures, names, descriptions or embeddings, and changed."""
