"""A self-hosted fine-tuning service that speaks OpenAI's contract and runs the provider's pipeline behind it."""
