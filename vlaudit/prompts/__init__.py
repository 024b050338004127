"""Prompting methods: one file for each method of the survey, and the prompt-file format."""
