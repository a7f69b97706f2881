"""GPT-1: pre-training, fine-tuning, generation and classification."""
