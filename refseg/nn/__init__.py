"""Thin adapters over encoders, and blocks that several methods share."""
