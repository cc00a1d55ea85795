"""Imports and exports embeddings: `.npy`, Parquet, clip-retrieval's folders, faiss index files."""

from .embeddings import Block, Embeddings
from .read import read_embeddings
from .write import EXTENSIONS, write_embeddings

__all__ = ["EXTENSIONS", "Block", "Embeddings", "read_embeddings", "write_embeddings"]
