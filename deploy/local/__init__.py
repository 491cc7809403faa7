"""Everything runs from here as child processes: Redis, teacher, services, trainer."""
