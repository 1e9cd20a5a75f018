"""External language models: n-grams and a small causal network, over words or a student's units."""
