"""What is asked for, and whether it can be done."""
