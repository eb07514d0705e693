"""Readers, the labels contract, and the way from files to batches."""
