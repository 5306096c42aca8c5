"""Files of a run: results, series, and a page to read."""
