"""One paper, one file: the defenses, and the registry that finds them."""
