"""The words that every floor speaks."""
