"""The reference consumer on the cloud side, and its proof that nothing is missing."""
