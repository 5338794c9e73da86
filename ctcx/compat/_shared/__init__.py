"""What the compatibility modules share."""
