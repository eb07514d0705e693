"""Accumulators, and the protocols that say how a number is made."""
