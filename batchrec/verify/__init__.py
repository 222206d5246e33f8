"""Proof that a run's rows are what they should be, by code that shares nothing with the code that made them."""
