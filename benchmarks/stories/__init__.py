"""A world between the miniature and real chat: a small model tells children's stories and refuses some."""
