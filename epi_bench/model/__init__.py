"""Models: where their files lie, which are refused, loading them, and feeding them batches.

Without torch: ``location`` (which files count) and ``stored_weights`` (what their headers rule
out). ``load`` ties the rest together: ``loaded_weights``, ``behaviour`` and ``limits`` check the
model that was loaded. ``chat`` makes tokens of conversations; ``batching`` and ``losses`` serve
every forward pass; ``precision``, ``stochastic_rounding`` and ``weight_movement`` are about
bfloat16 weights.
"""
