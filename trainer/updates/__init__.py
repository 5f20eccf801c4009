"""Updates of D and G, and their parts: the two players, schedules, the moving average."""
