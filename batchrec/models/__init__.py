"""Models: their training, their storage in a bundle, and the index over their item embeddings."""
