"""A part is fitted: its reduction is learned, its entries are indexed, and what a search finds is measured."""
