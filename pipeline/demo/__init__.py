"""The demo corpus: a controlled experiment about homophones, spoken on the spot."""
