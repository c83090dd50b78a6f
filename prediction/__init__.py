"""Many files at once: what predict_hf.py is made of."""
