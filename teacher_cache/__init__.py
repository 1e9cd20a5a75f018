"""The teacher cache: which tokens could have stood there, stored once and never edited."""
