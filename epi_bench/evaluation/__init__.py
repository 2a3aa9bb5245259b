"""Scoring a model: answers, options, references, gradient conflict."""
