"""How long to wait on a machine where others work too."""

import os


def patience(seconds: float) -> float:
    """Seconds to wait here for what takes so long on a core that is free."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
