"""A page for people: the same service, seen in a browser and rendered by the server."""
