"""Metrics and statistics: pure functions of numbers."""
