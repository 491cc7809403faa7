"""The engine on vLLM: contexts shared through its prefix cache, scores of responses only."""
