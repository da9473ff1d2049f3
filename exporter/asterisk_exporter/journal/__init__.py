"""Durable readers: counters from Asterisk's own records, with the position kept beside them."""
