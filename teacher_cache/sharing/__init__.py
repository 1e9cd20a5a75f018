"""A published cache is sent and received: as one file, or object by object."""
