"""The objects and rules of OpenAI's contract."""
