"""What is answered right, on whose pictures, beside what the papers say."""
