"""From CTC's scores to text."""
