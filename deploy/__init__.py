"""How the parts are put together: the console script and the launcher for one machine."""
