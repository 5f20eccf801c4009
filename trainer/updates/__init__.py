"""Updates of D and G, and their parts: the two networks, schedules, the moving average."""
