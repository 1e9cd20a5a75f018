"""The road from a corpus to a word error rate; knows both stages, and nothing imports it."""
