"""One engine: a recipe becomes stages in a store, and stages become results."""
