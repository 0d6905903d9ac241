"""What the workflow's scripts share: one module a concern."""
