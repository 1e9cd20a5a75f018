"""Evaluated runs held against each other: intervals, tests, and the words that they disagree on."""
