"""What readers get: page, figures, exports, cards."""
