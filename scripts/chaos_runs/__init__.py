"""What `scripts/chaos` is made of: real processes, SIGKILL at random moments, and an audit of everybody's books."""
