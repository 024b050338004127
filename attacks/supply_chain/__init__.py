"""Checks of the files a target is made of."""
