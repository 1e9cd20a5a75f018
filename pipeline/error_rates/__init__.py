"""Word errors of evaluated transcripts: counts, intervals, differences paired by item."""
