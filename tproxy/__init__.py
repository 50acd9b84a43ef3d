"""A transparent proxy for mail systems: a plain TCP port that is a logged-in mail session."""
