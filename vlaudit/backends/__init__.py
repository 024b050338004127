"""Loading models: each backend turns a spec into a model of one family."""
