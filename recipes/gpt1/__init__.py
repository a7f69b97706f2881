"""GPT-1: pre-training, fine-tuning, generation, classification and the ablation of the paper."""
