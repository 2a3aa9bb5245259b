"""Scoring a model.

``evaluator`` ties it together: text is generated (``generation``, ``answers``), options are
compared (``options``), references are scored by teacher forcing (``references``). ``scores`` holds
what comes out, ``running_text`` measures retention, ``divergence`` how far the model has moved
from the base, ``gradient_conflict`` how tasks pull against each other.
"""
