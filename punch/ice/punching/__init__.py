"""By which techniques two peers open their NATs to each other when connectivity checks alone find no path."""
