"""Data sets in, safe pictures, and the bundled emoji set."""
