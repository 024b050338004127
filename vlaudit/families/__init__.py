"""The target contracts, one file for each family of the survey: what a probe may ask of a model under a prompt."""
