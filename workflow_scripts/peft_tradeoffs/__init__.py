"""What the workflow's scripts share, in packages on floors: imports run downwards only."""
