"""What the base could do and what the trained model can: exact where the truth is exact."""
