"""A world between the miniature and real chat: a small model that tells children's stories and refuses some kinds of them."""
