"""`counterhint doctor`: what is wrong with a machine or a system, and what to do about it."""
