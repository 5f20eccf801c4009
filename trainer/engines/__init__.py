"""A network with its optimiser: the `Player` protocol, DeepSpeed's engine and a plain one."""
