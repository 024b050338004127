"""Strings that make a text encoder forget what else a text says: what they may be, what they wipe out, and the verdict on the strongest."""
