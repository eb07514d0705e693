"""Openly licensed weights of others, fetched into the user's cache: see `refseg.pull.run`."""
