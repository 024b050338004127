"""What others made is looked into before any library opens it: what each file is, by its content, and what it asks for."""
