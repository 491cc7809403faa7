"""Engines: what computes log probs. One file an engine, all of them `base.Engine`."""
