"""Conversations to token ids with a loss mask.

From the outside in: ``encoding_cache`` keeps what ``chat_encoder`` makes; ``turn_encoding`` finds
the assistant's tokens in the text that ``rendering`` makes with a ``chat_template``, whose fixed
texts ``template_shape`` learns and whose turns ``turn_search`` finds where that is not enough.
"""
