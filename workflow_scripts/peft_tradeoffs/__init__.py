"""What the workflow's scripts share: one module per concern."""
