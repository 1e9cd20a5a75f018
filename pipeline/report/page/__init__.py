"""The report: one HTML page on several runs that needs nothing else."""
