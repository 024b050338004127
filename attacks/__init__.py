"""The probes, as plugins: one file for each technique, sorted by risk. Found by the entry-point group ``vlaudit.probes``."""
