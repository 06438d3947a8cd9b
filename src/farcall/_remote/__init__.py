"""Julia's verbs."""
