"""Version 1 of the contract: the .proto file and its generated stubs."""
