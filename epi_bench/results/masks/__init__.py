"""How a run's mask moved, as numbers and a figure."""
