"""API keys, projects, quotas and rate limits."""
