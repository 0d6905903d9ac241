"""From a model and tokens to results."""
