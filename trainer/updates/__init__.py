"""One update of D and one of G, and what they need: the two players, schedules, averages."""
