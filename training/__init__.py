"""Training and evaluation: what train_hf.py, evaluate_hf.py, experiments/ and benchmarks/ are made of."""
