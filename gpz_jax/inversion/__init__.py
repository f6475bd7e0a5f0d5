"""What the attacker builds, and how it is scored."""
