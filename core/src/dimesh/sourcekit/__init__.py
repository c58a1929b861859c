"""A toolkit for authors of change sources."""
