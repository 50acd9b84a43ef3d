"""Where destinations and their credentials come from."""
