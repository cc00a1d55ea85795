"""First: a picture is decoded, cut to its boxes, resized and normalised to a model's input."""
