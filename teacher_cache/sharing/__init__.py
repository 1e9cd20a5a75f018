"""A published cache leaves and arrives: as one file, or object by object."""
