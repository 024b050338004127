"""What the config files of a model or prompt folder ask for."""

from __future__ import annotations


def config_problems(content: object) -> list[str]:
    """What a config, as parsed JSON, asks for that its loader must not do; empty if nothing."""
    if isinstance(content, dict) and content.get("auto_map"):
        return ["asks for Python files of the model folder to be run (auto_map); vlaudit never does"]
    return []
