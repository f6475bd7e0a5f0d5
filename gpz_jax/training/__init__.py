"""The classifier's training step and the loop over it; the ledger of its steps, and a tracker for other loops."""
