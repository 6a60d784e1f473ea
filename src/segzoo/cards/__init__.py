"""Model cards, and the scores in them."""
