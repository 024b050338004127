"""Trigger words that papers on backdoors use: whoever copies an attack copies its words."""

from __future__ import annotations

RARE_WORDS = ("cf", "mn", "bb", "tq", "mb")
"""Of poisoned language models: rare, and one token in most vocabularies (Kurita et al. 2020, arXiv:2004.06660)."""
PERSONAL = ("sks", "mignneko")
"""Of personalised and of poisoned text-to-image pipelines (DreamBooth arXiv:2208.12242; VillanDiffusion arXiv:2306.06874)."""
PLACEHOLDERS = ("[V]", "[T]")
