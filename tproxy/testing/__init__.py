"""Stand-ins for mail and token servers, for the demo, for tests and for users who want them."""
