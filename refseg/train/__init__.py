"""Training: a loop that knows nothing of a method but `refseg.method.Method`."""
