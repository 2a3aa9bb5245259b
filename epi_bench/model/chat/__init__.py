"""Conversations to token ids with a loss mask."""
