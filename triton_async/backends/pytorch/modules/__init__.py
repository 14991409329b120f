"""What the Python backend runs for PyTorch models that are Python code. Nothing else: models import from its folder."""
