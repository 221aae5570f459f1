"""Weights on disk: the authors' files and our own, read without executing anything in them."""
