"""A move from OpenAI: its exported files and job records become files and jobs of this service."""
