"""The reporters, as plugins: renderings of an audit folder. Found by the entry-point group ``vlaudit.reporters``."""
