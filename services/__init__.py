"""The services between student and teacher: intake, queue and dispatcher."""
