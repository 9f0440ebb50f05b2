"""What the maintenance actors have in common: their database, batches, counts, guards, fairness, and ports."""
