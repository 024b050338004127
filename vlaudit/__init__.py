"""vlaudit: an auditor for prompted vision-language models."""

__version__ = "0.1.0"
