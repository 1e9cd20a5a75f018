"""Several students at once: where each runs, how all are watched and stopped, what is shown meanwhile."""
