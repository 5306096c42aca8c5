"""vLLM behind the same generation call: a server of its own that answers for a copy of a model."""
