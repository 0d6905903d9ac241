"""Data sets and models: fetched, checked, tokenised."""
