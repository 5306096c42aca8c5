"""The provider's path: from a stranger's upload to a model that may be released, or a refusal with reasons."""
