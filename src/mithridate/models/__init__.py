"""The models that are trained and repaired: their parts, adapters, activations, merged weights and rows as tokens."""
