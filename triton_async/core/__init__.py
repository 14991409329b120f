"""Scheduling, instances, lifecycle, repository, statistics: the server without a front-end. Loop thread."""
