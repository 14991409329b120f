"""Replicas of the server behind a load balancer, as events: arrivals, batches, scaling. See __main__."""
