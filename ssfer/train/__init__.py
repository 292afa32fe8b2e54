"""The training loop, its device and processes, schedules and snapshots."""
