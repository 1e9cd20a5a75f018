"""The teacher: a Hugging Face folder, who it is, its tokenizer, and the masked language model that scores."""
