"""The probes, as plugins: a file or a folder each, sorted by risk; what several use is in ``shared``. Found by the entry-point group ``vlaudit.probes``."""
